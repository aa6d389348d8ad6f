"""ResNeXts and VDCNNs read from their tensors, built, shortened, and told from all else."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lit_core.measuring.cost import count_parameters
from lit_core.networks.families import FAMILIES, family_of
from lit_core.networks.families.resnext_cifar import NAMES, ResNeXt
from lit_core.networks.families.vdcnn import VDCNN, Downsampling, largest
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import build_student
from lit_core.networks.teacher import Teacher, TeacherError, inspect_teacher, read_teacher
from lit_spec import Architecture, DatasetRequest, JobSpec, StudentSpec, TeacherSpec

NORM = ("weight", "bias", "running_mean", "running_var")


def read(folder: Path, state: dict[str, Tensor]) -> Teacher:
    save_file(state, folder / "t.safetensors")
    return read_teacher(folder / "t.safetensors")


def zeros(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def student_of(teacher: Teacher, blocks: list[int]) -> SectionedNetwork:
    """Built as a job would, blocks inherited."""
    found = teacher.recognised.architecture
    network = family_of(found).build(found)
    network.load_state_dict(teacher.state)
    depth = next(depth for depth, known in family_of(found).students(found) if known == blocks)
    spec = JobSpec(
        teacher=TeacherSpec(upload="upl_t", architecture=found),
        dataset=DatasetRequest(builtin="digits"),
        student=StudentSpec(depth=depth, blocks=blocks, init="inherit"),
    )
    return build_student(SectionedNetwork(network, family_of(found).layout(found)), spec)


# --- ResNeXt ------------------------------------------------------------------------------------------------


def stage_shapes(blocks: list[int], cardinality: int, base: int, width: int, stem: int) -> dict[str, tuple[int, ...]]:
    """As the widespread CIFAR ResNeXt code names them, written down here once more."""
    shapes: dict[str, tuple[int, ...]] = {"conv_1_3x3.weight": (stem, 3, 3, 3)}
    shapes |= {f"bn_1.{part}": (stem,) for part in NORM}
    before = stem
    for section, count in enumerate(blocks):
        inner, out = cardinality * base * 2**section, width * 2**section
        for block in range(count):
            path = f"stage_{section + 1}.stage_{section + 1}_bottleneck_{block}"
            shapes |= {
                f"{path}.conv_reduce.weight": (inner, before, 1, 1),
                f"{path}.conv_conv.weight": (inner, inner // cardinality, 3, 3),
                f"{path}.conv_expand.weight": (out, inner, 1, 1),
            }
            for norm, features in (("bn_reduce", inner), ("bn", inner), ("bn_expand", out)):
                shapes |= {f"{path}.{norm}.{part}": (features,) for part in NORM}
            if before != out:
                shapes[f"{path}.shortcut.shortcut_conv.weight"] = (out, before, 1, 1)
                shapes |= {f"{path}.shortcut.shortcut_bn.{part}": (out,) for part in NORM}
            before = out
    return shapes | {"classifier.weight": (100, before), "classifier.bias": (100,)}


@pytest.mark.parametrize("stem", [8, 6])
def test_a_resnext_of_the_widespread_code_is_read(tmp_path: Path, stem: int) -> None:
    teacher = read(tmp_path, zeros(stage_shapes([3, 3, 3], 4, 2, 8, stem)))
    found = teacher.recognised.architecture
    assert (found.family, found.depth, found.blocks) == ("resnext_cifar", 29, [3, 3, 3])
    assert (found.channels, found.classes, found.choices) == (3, 100, {})
    options = {"cardinality": 4, "base_width": 2, "width": 8, "stem_width": stem}
    assert found.options.items() >= options.items()


@pytest.mark.parametrize("names", ["layer", "stage"])
@pytest.mark.parametrize("head", ["fc", "linear", "classifier"])
@pytest.mark.parametrize("projection", ["downsample", "shortcut"])
@pytest.mark.parametrize(
    "sizes",
    [
        {"blocks": [1, 1, 1], "cardinality": 1, "base_width": 4, "width": 8, "stem_width": 8},
        {"blocks": [2, 3, 1], "cardinality": 8, "base_width": 1, "width": 12, "stem_width": 4},
    ],
)
@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (4, 10)])
def test_a_resnext_is_read_from_the_tensors_and_built_again(
    tmp_path: Path, names: str, head: str, projection: str, sizes: dict[str, Any], channels: int, classes: int
) -> None:
    torch.manual_seed(0)
    sizes = {**sizes, "channels": channels, "classes": classes}
    network = ResNeXt(**sizes, names=NAMES[names], head=head, projection=projection)
    teacher = read(tmp_path, network.state_dict())
    found = teacher.recognised.architecture
    assert found.depth == 3 * sum(sizes["blocks"]) + 2
    assert {**found.options, "blocks": found.blocks, "channels": found.channels, "classes": found.classes} == {
        **sizes,
        "names": names,
        "head": head,
        "projection": projection,
    }
    rebuilt = family_of(found).build(found)
    rebuilt.load_state_dict(teacher.state)
    x = torch.randn(2, channels, 8, 8)
    assert torch.equal(rebuilt.eval()(x), network.eval()(x))


@pytest.mark.parametrize(("cardinality", "millions"), [(8, 34.4), (16, 68.1)])
def test_the_papers_resnext_29_has_the_papers_parameters(cardinality: int, millions: float) -> None:
    """Xie et al., table 7."""
    with torch.device("meta"):
        network = ResNeXt([3, 3, 3], cardinality, 64, 256, 64, channels=3, classes=10)
    assert count_parameters(network) / 1e6 == pytest.approx(millions, abs=0.06)


def test_a_resnext_student_keeps_the_teachers_names_and_inherits_its_blocks(tmp_path: Path) -> None:
    shapes = stage_shapes([3, 3, 3], 4, 2, 8, 6)
    generator = torch.Generator().manual_seed(0)
    teacher = read(tmp_path, {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()})
    assert [option.depth for option in inspect_teacher(teacher).students] == [11, 20, 29]
    student = student_of(teacher, [2, 2, 2])
    state = {k: v for k, v in student.network.state_dict().items() if "num_batches" not in k}
    wanted = stage_shapes([2, 2, 2], 4, 2, 8, 6)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == wanted
    for name, tensor in state.items():
        # Blocks 0 and 1 of two are the teacher's 0 and 1 of three.
        assert torch.equal(tensor, teacher.state[name]), name
    assert student.layout.sections[1] == ("stage_2.stage_2_bottleneck_0", "stage_2.stage_2_bottleneck_1")


# --- VDCNN --------------------------------------------------------------------------------------------------


def vdcnn_shapes(
    blocks: list[int], widths: list[int], k: int = 2, shortcut: bool = False, bias: bool = False
) -> dict[str, tuple[int, ...]]:
    """As the released code of LIT names them, written down here once more."""
    shapes: dict[str, tuple[int, ...]] = {"character_embedding.weight": (69, 16), "conv1.weight": (widths[0], 16, 3)}
    convolutions = {"conv1": widths[0]}
    for section, (count, (before, width)) in enumerate(zip(blocks, pairwise(widths), strict=True)):
        for block in range(count):
            path = f"sections.section_{section}.block_{block}"
            shapes[f"{path}.conv1.weight"] = (width, before if block == 0 else width, 3)
            shapes[f"{path}.conv2.weight"] = (width, width, 3)
            shapes |= {f"{path}.{norm}.{part}": (width,) for norm in ("bn1", "bn2") for part in NORM}
            convolutions |= {f"{path}.conv1": width, f"{path}.conv2": width}
            if shortcut and block == 0 and before < width:
                shapes[f"{path}._shortcut.0.weight"] = (width, before, 1)
                convolutions[f"{path}._shortcut.0"] = width
    if bias:
        shapes |= {f"{name}.bias": (width,) for name, width in convolutions.items()}
    shapes |= {"fc1.weight": (10, widths[-1] * k), "fc1.bias": (10,), "fc2.weight": (12, 10), "fc2.bias": (12,)}
    return shapes | {"fc3.weight": (5, 12), "fc3.bias": (5,)}


@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("blocks", "depth", "widths", "k", "least"),
    [
        ([1, 1, 1, 1], 9, [4, 4, 8, 16, 32], 8, 64),
        ([2, 2, 2, 2], 17, [4, 4, 8, 8, 12], 3, 12),
        ([8, 8, 5, 3], 49, [2, 4, 6, 8, 10], 1, 16),
    ],
)
def test_a_vdcnn_is_read_from_the_tensors(
    tmp_path: Path, blocks: list[int], depth: int, widths: list[int], k: int, least: int, shortcut: bool, bias: bool
) -> None:
    teacher = read(tmp_path, zeros(vdcnn_shapes(blocks, widths, k, shortcut, bias)))
    found = teacher.recognised.architecture
    assert (found.family, found.modality, found.depth, found.blocks) == ("vdcnn", "text", depth, blocks)
    assert (found.channels, found.classes) == (None, 5)
    assert found.options == {
        "vocabulary_size": 69,
        "embedding_size": 16,
        "stem_width": widths[0],
        **{f"width_{section}": widths[section] for section in (1, 2, 3, 4)},
        "k": k,
        "hidden_1": 10,
        "hidden_2": 12,
        "downsampling": "maxpool",
        "shortcut": shortcut,
        "bias": bias,
        "least_length": least,
    }
    assert found.choices == {"downsampling": ["maxpool", "conv", "kmaxpool"]}


def test_where_nothing_widens_the_shortcuts_are_what_the_tensors_cannot_tell(tmp_path: Path) -> None:
    teacher = read(tmp_path, zeros(vdcnn_shapes([2, 1, 1, 1], [4, 4, 4, 4, 4])))
    found = teacher.recognised.architecture
    assert found.choices == {"shortcut": [False, True]}
    assert (found.options["shortcut"], found.options["least_length"]) == (False, 2)


@pytest.mark.parametrize("downsampling", Downsampling)
@pytest.mark.parametrize("length", [16, 23])
def test_the_shortest_texts_that_a_vdcnn_takes(downsampling: Downsampling, length: int) -> None:
    network = VDCNN([1, 1, 1, 1], 3, widths=(4, 4, 6, 8, 10), k=2, hidden=(4, 4), downsampling=downsampling)
    sectioned = SectionedNetwork(network, FAMILIES["vdcnn"].layout(architecture_of(network)))
    trace = sectioned.trace(torch.zeros(2, length, dtype=torch.int64))
    assert trace.output.shape == (2, 3)
    up = length % 2 if downsampling != Downsampling.KMAXPOOL else 0
    assert [tuple(x.shape[:2]) for x in trace.inputs] == [(2, 4), (2, 4), (2, 6), (2, 8)]
    assert [x.shape[2] for x in trace.outputs[:2]] == [length, length // 2 + up]


def architecture_of(network: torch.nn.Module) -> Architecture:
    return FAMILIES["vdcnn"].read({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})


def test_the_k_largest_stand_in_their_order() -> None:
    x = torch.tensor([[[3.0, 9.0, 1.0, 7.0, 8.0], [0.0, -1.0, -2.0, -3.0, 5.0]]])
    assert largest(x, 3).tolist() == [[[9.0, 7.0, 8.0], [0.0, -1.0, 5.0]]]


@pytest.mark.parametrize(
    ("blocks", "depths"),
    [
        ([1, 1, 1, 1], [9]),
        ([2, 2, 2, 2], [9, 17]),
        ([5, 5, 2, 2], [9, 17, 21, 25, 29]),
        ([8, 8, 5, 3], [9, 17, 25, 29, 31, 37, 41, 45, 49]),
        ([8, 8, 5, 2], [9, 17, 23, 29, 35, 39, 43, 47]),
    ],
)
def test_students_of_a_vdcnn_are_evenly_shorter_or_of_the_papers_depths(blocks: list[int], depths: list[int]) -> None:
    shapes = vdcnn_shapes(blocks, [2, 2, 3, 4, 5])
    family = FAMILIES["vdcnn"]
    students = family.students(family.read(shapes))
    assert [depth for depth, _ in students] == depths
    assert students[-1][1] == blocks
    by_depth = dict(students)
    for depth, named in ((17, [2, 2, 2, 2]), (29, [5, 5, 2, 2])):
        assert by_depth.get(depth, named) == named
    for depth, shorter in students:
        assert depth == 2 * sum(shorter) + 1
        assert all(n <= count for n, count in zip(shorter, blocks, strict=True))


def test_a_vdcnn_student_inherits_and_keeps_what_was_chosen(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = vdcnn_shapes([5, 5, 2, 2], [4, 4, 6, 8, 10], shortcut=True)
    teacher = read(tmp_path, {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()})
    inspection = inspect_teacher(teacher)
    for option in inspection.students:
        arch = inspection.architecture.model_copy(update={"blocks": option.blocks})
        assert option.parameters == count_parameters(family_of(arch).build(arch))
    student = student_of(teacher, [2, 2, 2, 2])
    state = {k: v for k, v in student.network.state_dict().items() if "num_batches" not in k}
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == vdcnn_shapes(
        [2, 2, 2, 2], [4, 4, 6, 8, 10], shortcut=True
    )
    taken = {"sections.section_0.block_1": "sections.section_0.block_2"}  # the first and the third of five
    for name, tensor in state.items():
        path, _, rest = name.partition(".block_1")
        source = f"{taken[path + '.block_1']}{rest}" if path == "sections.section_0" and rest else name
        if path != "sections.section_1":
            assert torch.equal(tensor, teacher.state[source]), name
    assert student.layout.stem == ("character_embedding", "conv1")
    assert student.layout.head == ("fc1", "fc2", "fc3")


# --- files that are neither ---------------------------------------------------------------------------------


def changed(shapes: dict[str, tuple[int, ...]], change: dict[str, tuple[int, ...] | None]) -> dict[str, Tensor]:
    merged = {**shapes, **change}
    return zeros({name: shape for name, shape in merged.items() if shape is not None})


STAGE = stage_shapes([2, 2, 2], 4, 2, 8, 6)
TEXT = vdcnn_shapes([1, 1, 1, 1], [4, 4, 6, 8, 10])


@pytest.mark.parametrize(
    ("shapes", "change", "named"),
    [
        (STAGE, {"stage_2.stage_2_bottleneck_1.bn.weight": None}, "missing: stage_2.stage_2_bottleneck_1.bn.weight"),
        (STAGE, {"stage_3.stage_3_bottleneck_0.conv_conv.bias": (32,)}, "not part of it: stage_3.stage_3_bottleneck_0"),
        (STAGE, {"stage_4.stage_4_bottleneck_0.bn.weight": (4,)}, "stage_4.stage_4_bottleneck_0.bn.weight"),
        (STAGE, {"classifier.weight": (100, 33)}, "classifier.weight has [100, 33], not [100, 32]"),
        (STAGE, {"conv_1_3x3.weight": None}, "lacks conv_1_3x3.weight"),
        (STAGE, {"conv_1_3x3.weight": (6,)}, "conv_1_3x3.weight of shape [6], not of 4 dimensions"),
        (STAGE, {"stage_1.stage_1_bottleneck_0.conv_conv.weight": (8, 3, 3, 3)}, "groups of 3"),
        (STAGE, {"stage_1.stage_1_bottleneck_0.conv_conv.weight": (8, 0, 3, 3)}, "of shape [8, 0, 3, 3]"),
        (TEXT, {"fc2.weight": None}, "missing: fc2.weight"),
        (TEXT, {"fc1.weight": (10, 21)}, "21 inputs, no multiple of the last section's width 10"),
        (TEXT, {"conv1.bias": (4,)}, "missing: sections.section_0.block_0.conv1.bias"),
        (TEXT, {"sections.section_4.block_0.bn1.weight": (4,)}, "sections.section_4.block_0.bn1.weight"),
        (TEXT, {"sections.section_2.block_0._shortcut.0.weight": (8, 6, 1)}, "section_1.block_0._shortcut.0.weight"),
        (TEXT, {"sections.section_3.block_0.conv1.weight": (10, 8)}, "not of 3 dimensions"),
        (vdcnn_shapes([1] * 4, [4, 8, 6, 8, 10], shortcut=True), {}, "widths that fall"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], change: dict[str, tuple[int, ...] | None], named: str
) -> None:
    with pytest.raises(TeacherError) as failure:
        read(tmp_path, changed(shapes, change))
    assert named in str(failure.value)


def test_a_checkpoint_of_no_family_is_told_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(TeacherError) as failure:
        read(tmp_path, zeros({"features.0.weight": (4, 3, 3, 3)}))
    said = str(failure.value)
    assert "(ResNet and ResNeXt for CIFAR, VDCNN, StarGAN); it has features.0.weight" in said
    assert "lit_core.compress" in said
