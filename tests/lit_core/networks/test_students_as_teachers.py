"""Students that LIT has made are teachers: of their files only what their tensors don't show is believed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from lit_core.model import save_weights
from lit_core.networks.families import FAMILIES, family_of
from lit_core.networks.families.vdcnn import VDCNN
from lit_core.networks.student import shallow_architecture, shortened
from lit_core.networks.teacher import (
    TeacherError,
    build_teacher,
    check_outputs_are_finite,
    inspect_teacher,
    read_teacher,
)
from lit_spec import Architecture, LibraryRequest
from lit_spec.networks.teacher_files import ARCHITECTURE_KEY
from lit_spec.trainer.folder import CONFIG_FILE, WEIGHTS_FILE

KEPT = [[1], [0, 1], [0], [0, 1]]
NARROW = {"channels": [64, 16, 16, 24]}
"""Arguments of timm's resnet18 that make its files small."""


def resnet18(library: str = "timm") -> LibraryRequest:
    kwargs = NARROW if library == "timm" else {}
    return LibraryRequest.model_validate({"library": library, "name": "resnet18", "kwargs": kwargs})


def make_student(
    file: Path, teacher_file: Path, kept: list[list[int]], request: LibraryRequest | None = None
) -> tuple[nn.Module, Architecture]:
    """A student of the teacher in a file, written as a job writes it."""
    teacher = read_teacher(teacher_file, request)
    save_file(teacher.state, file.with_name("inspected.safetensors"))
    built = build_teacher(teacher.recognised.architecture, file.with_name("inspected.safetensors"))
    student = shortened(built, kept).network.eval()
    architecture = shallow_architecture(teacher.recognised.architecture, kept)
    save_weights(student, file, architecture)
    return student, architecture


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a student of a narrow resnet18 of timm, which no test changes."""
    folder = tmp_path_factory.mktemp("student")
    torch.save(timm.create_model("resnet18", num_classes=4, **NARROW).state_dict(), folder / "teacher.pt")
    make_student(folder / "model.safetensors", folder / "teacher.pt", KEPT, resnet18())
    return folder / "model.safetensors"


def without_metadata(student: Path, folder: Path) -> Path:
    """As versions without the metadata wrote it."""
    save_file(load_file(student), folder / "older.safetensors")
    return folder / "older.safetensors"


def packed(archive: Path, members: dict[str, bytes | Path], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(archive, "w", compression) as made:
        for name, content in members.items():
            made.writestr(name, content if isinstance(content, bytes) else content.read_bytes())
    return archive


def config_of(student: Path) -> bytes:
    with safe_open(student, "pt") as file:
        return json.dumps({"config_version": 2, "architecture": json.loads(file.metadata()[ARCHITECTURE_KEY])}).encode()


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_student_of_a_student_is_the_network_that_was_trained(tmp_path: Path, library: str) -> None:
    made: dict[str, Callable[..., nn.Module]] = {"timm": timm.create_model, "torchvision": torchvision.models.get_model}
    request = resnet18(library)
    torch.save(made[library]("resnet18", num_classes=4, **request.kwargs).state_dict(), tmp_path / "teacher.pt")
    first, architecture = make_student(tmp_path / "first.safetensors", tmp_path / "teacher.pt", KEPT, request)
    found = read_teacher(tmp_path / "first.safetensors")
    assert found.recognised.architecture == architecture
    assert found.unwrapped == [f"its file says that it is a student of {library}/resnet18"]
    inspection = inspect_teacher(found)
    assert [option.blocks for option in inspection.students][-1] == [1, 2, 1, 2]
    assert inspection.preprocessing is None, "it was trained with that of its job"
    kept = [[0], [0], [0], [0, 1]]
    second, smaller = make_student(tmp_path / "second.safetensors", tmp_path / "first.safetensors", kept)
    assert smaller.network is not None
    # In the library's network, which the file of the second student names.
    assert smaller.network.kept == [[1], [0], [0], [0, 1]]
    x = torch.randn(2, 3, 64, 64)
    for file, network in (("first", first), ("second", second)):
        read = read_teacher(tmp_path / f"{file}.safetensors")
        rebuilt = family_of(read.recognised.architecture).build(read.recognised.architecture).eval()
        rebuilt.load_state_dict(read.state)
        assert torch.equal(rebuilt(x), network(x))


def test_the_archive_of_a_student_is_a_teacher(student: Path, tmp_path: Path) -> None:
    own = read_teacher(student)
    older, config = without_metadata(student, tmp_path), config_of(student)
    archives = (
        packed(tmp_path / "a.zip", {"huggingface/model.safetensors": b"x", WEIGHTS_FILE: student, "model.pt2": b"x"}),
        packed(tmp_path / "b.zip", {WEIGHTS_FILE: older, CONFIG_FILE: config, "report.json": b"{}"}),
        packed(tmp_path / "c.zip", {f"student/{WEIGHTS_FILE}": older, f"student/{CONFIG_FILE}": config}),
    )
    for archive in archives:
        found = read_teacher(archive)
        assert found.recognised.architecture == own.recognised.architecture
        assert found.unwrapped[0].endswith("model.safetensors taken from the archive")
        assert all(torch.equal(found.state[name], own.state[name]) for name in own.state)


def test_a_configuration_of_another_library_says_nothing(student: Path, tmp_path: Path) -> None:
    """In the Hugging Face folder of a student that timm can build is timm's."""
    timms = json.dumps({"architecture": "resnet18", "num_classes": 4}).encode()
    archive = packed(tmp_path / "a.zip", {WEIGHTS_FILE: student, CONFIG_FILE: timms})
    assert read_teacher(archive).recognised.architecture.blocks == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("config", "compression", "said"),
    [
        (b"{", zipfile.ZIP_STORED, r"config\.json of the student is not JSON"),
        (b"[" * 100_000, zipfile.ZIP_STORED, r"config\.json of the student is not JSON"),
        (b"[" + bytes(4 << 20), zipfile.ZIP_STORED, r"config\.json has more than 4194304 bytes"),
        (b'{"architecture": {"family": "a"}}', zipfile.ZIP_STORED, r"no architecture can be \(architecture\.depth\)"),
        (b"{}", zipfile.ZIP_DEFLATED, "is compressed or encrypted in the archive"),
    ],
    ids=["no JSON", "nested", "long", "no architecture", "compressed"],
)
def test_hostile_archives_are_refused(
    student: Path, tmp_path: Path, config: bytes, compression: int, said: str
) -> None:
    members = {WEIGHTS_FILE: without_metadata(student, tmp_path), CONFIG_FILE: config}
    with pytest.raises(TeacherError, match=said):
        read_teacher(packed(tmp_path / "a.zip", members, compression))


def test_an_archive_that_is_cut_off_or_damaged_is_refused(student: Path, tmp_path: Path) -> None:
    whole = packed(tmp_path / "a.zip", {WEIGHTS_FILE: student}).read_bytes()
    (tmp_path / "b.zip").write_bytes(whole[:-100])
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    (tmp_path / "c.zip").write_bytes(changed)
    for name in ("b.zip", "c.zip"):
        with pytest.raises(TeacherError, match="cannot be read"):
            read_teacher(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "resnet-18"}, "is made of timm's resnet-18, which is impossible"),
        ({"kwargs": {"pretrained": True}}, "which is impossible"),
        (
            {"kwargs": {**NARROW, "num_classes": 5}},
            "student of timm/resnet18 that its file says it is, but of another shape: fc",
        ),
        ({"kept": [[0], [0], [0]]}, "which is impossible"),
        ({"kept": [[1], [0, 7], [0], [0]]}, "which is impossible"),
        ({"kept": [[1], [0], [0], [0]]}, "but not part of it: layer2.1"),
        ({"sections": [["layer9.0", "layer9.1"]]}, "which is impossible"),
    ],
    ids=str,
)
def test_what_a_file_says_is_checked(student: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    told = json.loads(config_of(student))["architecture"]
    told["network"] |= change
    save_file(load_file(student), tmp_path / "lies.safetensors", {ARCHITECTURE_KEY: json.dumps(told)})
    with pytest.raises(TeacherError, match=said):
        read_teacher(tmp_path / "lies.safetensors")


LONG = "z" * 1_000_000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"family": LONG, "network": None}, "no architecture can be (architecture.family)"),
        ({"family": "\x1b[31m", "network": None}, "no architecture can be (architecture.family)"),
        ({"network": {"name": LONG}}, "no architecture can be (architecture.network.name)"),
        ({"network": {"name": "a\nb"}}, "no architecture can be (architecture.network.name)"),
        ({LONG: 1}, "no architecture can be (architecture)"),
        ({"network": {"kwargs": {LONG: 1}}}, "which is impossible (kwargs"),
        ({"network": {"kwargs": {"weights": "x"}}}, "(kwargs: Value error, may only have arguments"),
        ({"network": {"kwargs": {"\x1b[31m": 1}}}, "\\x1b[31m"),
        ({"network": {"sections": [["a" * 300] * 1000]}}, "which is impossible"),
        ({"network": {"sections": [[]]}}, "which is impossible (sections.0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_file_says_is_shown_in_bounds(student: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    told = json.loads(config_of(student))["architecture"]
    network = change.get("network", {})
    told = {**told, **change, "network": network if network is None else {**told["network"], **network}}
    save_file(load_file(student), tmp_path / "lies.safetensors", {ARCHITECTURE_KEY: json.dumps(told)})
    with pytest.raises(TeacherError) as refused:
        read_teacher(tmp_path / "lies.safetensors")
    message = str(refused.value)
    assert said in message
    assert len(message) < 1500
    assert message.isprintable()
    assert "pydantic.dev" not in message


def test_a_student_whose_blocks_do_not_fit_each_other_is_refused(tmp_path: Path) -> None:
    wide = resnet18().model_copy(update={"kwargs": {"channels": [8, 16, 16, 24]}})
    torch.save(timm.create_model("resnet18", num_classes=4, **wide.kwargs).state_dict(), tmp_path / "teacher.pt")
    # The block that is left out makes 8 channels of the stem's 64.
    make_student(tmp_path / "model.safetensors", tmp_path / "teacher.pt", KEPT, wide)
    with pytest.raises(TeacherError, match=r"can't run: .*to have 8 channels, but got 64"):
        check_outputs_are_finite(read_teacher(tmp_path / "model.safetensors"))


def test_a_file_that_says_another_family_than_its_tensors_is_not_quoted(student: Path, tmp_path: Path) -> None:
    told = json.loads(config_of(student))["architecture"] | {"family": "stargan", "network": None}
    network = VDCNN([1, 1, 1, 1], 3, widths=(4, 4, 6, 8, 10), k=2, hidden=(4, 4))
    save_file(network.state_dict(), tmp_path / "lies.safetensors", {ARCHITECTURE_KEY: json.dumps(told)})
    assert read_teacher(tmp_path / "lies.safetensors").unwrapped == []


def test_only_what_tensors_do_not_show_is_taken_from_a_file(student: Path, tmp_path: Path) -> None:
    told = json.loads(config_of(student))["architecture"] | {"classes": 9, "channels": 7, "blocks": [9], "depth": 1}
    told["network"] |= {"size": [100_000, 100_000], "stem": ["gone"], "head": []}
    save_file(load_file(student), tmp_path / "lies.safetensors", {ARCHITECTURE_KEY: json.dumps(told)})
    found = read_teacher(tmp_path / "lies.safetensors")
    assert found.recognised.architecture == read_teacher(student).recognised.architecture


def test_a_request_overrides_what_the_file_says(student: Path, tmp_path: Path) -> None:
    plain = LibraryRequest.model_validate({"library": "timm", "name": "resnet18"})
    assert read_teacher(student, plain).recognised.architecture.blocks == [1, 2, 1, 2]
    with pytest.raises(TeacherError, match="it is a student of timm/resnet18: leave the architecture out to use that"):
        read_teacher(student, resnet18("torchvision").model_copy(update={"name": "resnet34"}))


@pytest.mark.parametrize(("told", "taken"), [("conv", "conv"), ("stride", "maxpool")])
def test_options_of_a_family_come_with_the_file(tmp_path: Path, told: str, taken: str) -> None:
    network = VDCNN([1, 1, 1, 1], 3, widths=(4, 4, 6, 8, 10), k=2, hidden=(4, 4))
    architecture = FAMILIES["vdcnn"].read({name: tuple(x.shape) for name, x in network.state_dict().items()})
    options = {**architecture.options, "downsampling": told, "vocabulary_size": 7}
    save_weights(network, tmp_path / "model.safetensors", architecture.model_copy(update={"options": options}))
    found = read_teacher(tmp_path / "model.safetensors").recognised.architecture
    assert found == architecture.model_copy(update={"options": {**architecture.options, "downsampling": taken}})
