"""What an inspection finds in a data set, beside what tests/inputs shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lit_core.data import DatasetError
from lit_core.data.inspection import inspect_dataset
from lit_core.data.readers.archives import Member
from tests.inputs.datasets import npz, picture, pictures, rows, written, zipped


def test_statistics_are_those_of_the_pixels(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (300, 3, 9, 7), dtype=np.uint8)
    npz(x=x, y=np.arange(300) % 4)(tmp_path / "d")
    found = inspect_dataset(tmp_path / "d")
    assert found.images is not None
    assert found.images.mean == pytest.approx((x / 255).mean(axis=(0, 2, 3)), abs=1e-4)
    assert found.images.std == pytest.approx((x / 255).std(axis=(0, 2, 3)), abs=1e-4)
    assert (found.images.height, found.images.width, found.images.channels) == ([9, 9], [7, 7], [3, 7])
    assert (found.looked_at, found.splits["train"].counts) == (300, [75] * 4)


def test_a_part_is_looked_at_when_there_is_no_time(tmp_path: Path) -> None:
    zipped(pictures())(tmp_path / "d")
    found = inspect_dataset(tmp_path / "d", seconds=0)
    assert (found.looked_at, found.samples, found.images) == (0, 40, None)
    assert found.splits["train"].counts == [20, 20]


def test_many_damaged_images_are_counted_and_some_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    plain = Member.read

    def kept(member: Member) -> bytes:
        content = plain(member)
        read.append(content)
        return content

    monkeypatch.setattr(Member, "read", kept)
    zipped({f"{label}/{n}.png": picture(n)[:30] for label in ("cat", "dog") for n in range(20)})(tmp_path / "d")
    with pytest.raises(DatasetError, match=r"40 samples can't be read: .*; and 35 more") as caught:
        inspect_dataset(tmp_path / "d")
    assert len(caught.value.detail) < 1000
    assert len(read) == 40


def test_notes_are_short_however_many_classes_there_are(tmp_path: Path) -> None:
    labels = [f"{label}{n}" for n in range(5000) for label in ("A", "a")]
    written("".join(f"{label},text {n}\n" * 2 for n, label in enumerate(labels)))(tmp_path / "d")
    found = inspect_dataset(tmp_path / "d")
    assert (found.number_of_classes, len(found.classes)) == (10_000, 1000)
    assert "and 4990 more" in found.notes[0]
    assert len(found.model_dump_json()) < 50_000


def test_labels_that_are_nearly_all_different_are_doubted(tmp_path: Path) -> None:
    written("".join(f"text {n},{n % 3}\n" for n in range(60)))(tmp_path / "d")
    assert any("has the label in its first column" in note for note in inspect_dataset(tmp_path / "d").notes)
    written(rows())(tmp_path / "d")
    assert inspect_dataset(tmp_path / "d").notes == []
