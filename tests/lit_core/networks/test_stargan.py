"""StarGAN's family: recognised from its tensors under both names, built, divided, made shallower."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lit_core.measuring.cost import count_parameters
from lit_core.networks.families import family_of
from lit_core.networks.families.stargan import Discriminator, Generator
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import build_student
from lit_core.networks.teacher import TeacherError, build_teacher, inspect_teacher, read_teacher
from lit_spec import Architecture, Init, JobRequest, Task, resolve
from tests.lit_core import naive_stargan

NAMES = ("main", "sections")


def generator(
    names: str = "main", blocks: int = 2, conv_dim: int = 3, channels: int = 3, domains: int = 2, running: bool = True
) -> Generator:
    """With affine parameters and running statistics away from their initial values."""
    torch.manual_seed(0)
    network = Generator(conv_dim, domains, channels, blocks, names, running)
    draws = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 1 and not name.endswith("tracked"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=draws))
    return network


def written(path: Path, state: dict[str, Tensor]) -> Path:
    save_file(state, path / "t.safetensors")
    return path / "t.safetensors"


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(("blocks", "conv_dim", "channels", "domains"), [(1, 3, 1, 1), (6, 4, 3, 5), (3, 2, 4, 40)])
def test_a_generator_is_read_from_its_tensors(
    tmp_path: Path, names: str, running: bool, blocks: int, conv_dim: int, channels: int, domains: int
) -> None:
    network = generator(names, blocks, conv_dim, channels, domains, running)
    found = read_teacher(written(tmp_path, network.state_dict())).recognised.architecture
    assert found == Architecture(
        family="stargan",
        task=Task.TRANSLATION,
        depth=6 + 2 * blocks,
        blocks=[blocks],
        channels=channels,
        classes=domains,
        options={"conv_dim": conv_dim, "names": names, "running_statistics": running},
    )
    rebuilt = build_teacher(found, tmp_path / "t.safetensors").network
    x, c = torch.randn(2, channels, 8, 12), torch.rand(2, domains)
    assert torch.equal(rebuilt(x, c), network(x, c))


@pytest.mark.parametrize("names", NAMES)
def test_a_generator_computes_the_naive_formulas_whatever_its_mode(names: str) -> None:
    network = generator(names, blocks=3).double()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x, c = torch.randn(2, 3, 8, 12, dtype=torch.float64), torch.rand(2, 2, dtype=torch.float64)
    wanted = naive_stargan.generator(before, 3, names, x, c)
    for mode in (True, False):
        torch.testing.assert_close(network.train(mode)(x, c), wanted, rtol=1e-10, atol=1e-10)
    # Running statistics are carried along, not used and not changed.
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("layers", [1, 3])
def test_a_discriminator_is_read_from_its_tensors_and_has_no_students(tmp_path: Path, layers: int) -> None:
    network = Discriminator(4, 5, 3, layers, 2)
    inspection = inspect_teacher(read_teacher(written(tmp_path, network.state_dict())))
    found = inspection.architecture
    assert (found.family, found.task, found.blocks) == ("stargan_discriminator", Task.DISCRIMINATION, [])
    assert (found.channels, found.classes) == (3, 5)
    assert found.options == {"conv_dim": 4, "layers": layers, "image_size": 2 * 2**layers}
    assert inspection.students == []
    assert inspection.parameters == count_parameters(network)
    x = torch.randn(2, 3, 2 * 2**layers, 2 * 2**layers, dtype=torch.float64)
    scores, logits = network.double()(x)
    wanted = naive_stargan.discriminator(dict(network.state_dict()), layers, x)
    torch.testing.assert_close(scores, wanted[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(logits, wanted[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("init", list(Init))
def test_a_student_has_the_names_that_the_original_code_gives_so_many_blocks(
    tmp_path: Path, names: str, init: Init
) -> None:
    network = generator(names, blocks=6)
    path = written(tmp_path, network.state_dict())
    inspection = inspect_teacher(read_teacher(path))
    assert [(option.depth, option.blocks) for option in inspection.students] == [(6 + 2 * n, [n]) for n in range(1, 7)]
    asked = {"teacher": "upl_t", "dataset": {"upload": "upl_d"}, "student": {"depth": 10, "init": init}}
    spec = resolve(JobRequest.model_validate(asked), inspection)
    assert spec.student.blocks == [2]
    teacher = build_teacher(inspection.architecture, path)
    student = build_student(teacher, spec)
    shallow = Generator(3, 2, 3, 2, names, True)
    shallow.load_state_dict(student.network.state_dict())
    assert count_parameters(shallow) == inspection.students[1].parameters

    ours, theirs = student.network.state_dict(), network.state_dict()
    (_, mine, end), (_, its, its_end) = naive_stargan.places(2, names), naive_stargan.places(6, names)
    for name, tensor in ours.items():
        path_in = name.rsplit(".", 1)[0]
        if path_in in end:
            source = name.replace(path_in, its_end[end.index(path_in)])
        elif name.startswith(tuple(f"{block}." for block in mine)):
            block = next(block for block in mine if name.startswith(f"{block}."))
            source = name.replace(block, its[3 * mine.index(block)], 1)
        else:
            source = name
        inherited = init == Init.INHERIT or ".main." not in name[5:]
        assert not inherited or torch.equal(tensor, theirs[source]), name
    convolution = f"{mine[1]}.main.0.weight"
    assert torch.equal(ours[convolution], theirs[f"{its[3]}.main.0.weight"]) == (init == Init.INHERIT)


@pytest.mark.parametrize("names", NAMES)
def test_the_section_is_the_trunk(names: str) -> None:
    network = generator(names, blocks=3)
    arch = Architecture(
        family="stargan",
        task=Task.TRANSLATION,
        depth=12,
        blocks=[3],
        channels=3,
        classes=2,
        options={"conv_dim": 3, "names": names, "running_statistics": True},
    )
    sectioned = SectionedNetwork(network, family_of(arch).layout(arch))
    x, c = torch.randn(2, 3, 8, 8), torch.rand(2, 2)
    traced = sectioned.trace(x, c)
    tensors = dict(network.state_dict())
    first, middle, _ = naive_stargan.places(3, names)
    torch.testing.assert_close(traced.inputs[0], naive_stargan.stem(tensors, first, x, c), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        traced.outputs[0], naive_stargan.trunk(tensors, middle, traced.inputs[0]), rtol=1e-4, atol=1e-4
    )
    assert torch.equal(sectioned.stem_output(x, c), traced.inputs[0])
    assert student_parts(sectioned) == set(dict(network.named_modules())) - {"", *network_wrappers(network)}


def student_parts(network: SectionedNetwork) -> set[str]:
    """Every module under stem, sections and head."""
    tops = [*network.layout.stem, *network.layout.sections[0], *network.layout.head]
    return {name for name, _ in network.network.named_modules() if any(f"{name}.".startswith(f"{t}.") for t in tops)}


def network_wrappers(network: Generator) -> set[str]:
    return {name for name, _ in network.named_children()}


@pytest.mark.parametrize(
    ("names", "taken", "said"),
    [
        ("main", "main.10.main.3.weight", "missing: main.10.main.3.weight"),
        ("sections", "bottleneck_section1.1.main.3.weight", "missing: bottleneck_section1.1.main.3.weight"),
        ("main", "main.17.weight", "output channels (main.17.weight)"),
        ("sections", "upsampling_layers.6.weight", "output channels (upsampling_layers.6.weight)"),
    ],
)
def test_a_generator_that_lacks_something_is_told_what(tmp_path: Path, names: str, taken: str, said: str) -> None:
    state = generator(names).state_dict()
    del state[taken]
    with pytest.raises(TeacherError) as failure:
        read_teacher(written(tmp_path, state))
    assert said in str(failure.value)


@pytest.mark.parametrize("taken", ["conv1.weight", "conv2.weight", "main.2.bias"])
def test_a_discriminator_that_lacks_something_is_told_what(tmp_path: Path, taken: str) -> None:
    state = Discriminator(4, 5, 3, 2, 2).state_dict()
    del state[taken]
    with pytest.raises(TeacherError) as failure:
        read_teacher(written(tmp_path, state))
    assert taken.removesuffix(".weight") in str(failure.value)
