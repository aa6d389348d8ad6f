"""Whatever is wrong with the data is a DatasetError; what is wrong with the machine stays what it is."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from lit_core.data import DatasetError, Interface, Limits, load_dataset
from lit_core.data.errors import damage_is_an_error
from lit_spec import DatasetRequest
from tests.lit_core.data.broken_files import FILES, broken, crafted

CRAFTED = crafted()
LIMITS = Limits(total_bytes=64 << 20)
FUZZED = 60
"""Files that are made of each valid one."""


def load(path: Path, content: bytes, interface: Interface) -> int:
    """The number of samples."""
    path.write_bytes(content)
    dataset = load_dataset(DatasetRequest(upload="upl_x"), None, path, interface, limits=LIMITS)
    return sum(len(split.y) for split in dataset.splits.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FILES)
def test_a_broken_file_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    make, interface = FILES[kind]
    valid = make()
    assert load(tmp_path / "valid", valid, interface) > 0
    refusals = []
    for content in broken(valid, 15, FUZZED):
        try:
            load(tmp_path / "broken", content, interface)
        except DatasetError as refusal:
            refusals.append(refusal.detail)
    assert refusals
    assert all(refusals)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CRAFTED)
def test_a_file_that_was_broken_on_purpose_is_refused(tmp_path: Path, name: str) -> None:
    content, interface = CRAFTED[name]
    with pytest.raises(DatasetError) as refusal:
        load(tmp_path / "crafted", content, interface)
    assert ":" in refusal.value.detail or "; " in refusal.value.detail or "at most" in refusal.value.detail


def test_a_header_that_numpy_cannot_read_names_its_array(tmp_path: Path) -> None:
    content, interface = CRAFTED["npy header (((("]
    with pytest.raises(DatasetError) as refusal:
        load(tmp_path / "crafted", content, interface)
    assert refusal.value.member == "x.npy"
    assert "x.npy can't be read" in refusal.value.detail
    assert "pack it again" in refusal.value.detail


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError(),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EIO, "Input/output error"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        KeyboardInterrupt(),
    ],
)
def test_a_fault_of_the_machine_is_not_of_the_data(failure: BaseException) -> None:
    with pytest.raises(type(failure)) as raised, damage_is_an_error("x.npy"):
        raise failure
    assert raised.value is failure


@pytest.mark.parametrize("failure", [OSError("not a gzip file"), RecursionError("deep"), ZeroDivisionError("by zero")])
def test_any_other_exception_is_of_the_data(failure: Exception) -> None:
    with (
        pytest.raises(DatasetError, match=r"x\.npy can't be read") as raised,
        damage_is_an_error("x.npy", member="x.npy"),
    ):
        raise failure
    assert raised.value.__cause__ is failure
    assert raised.value.member == "x.npy"
