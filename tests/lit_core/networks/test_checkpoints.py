"""Checkpoints as trainers and tools write them: the network's tensors are found, and nothing else is read or run."""

from __future__ import annotations

import argparse
import copy
import pickle
import tarfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from lit_core.networks.checkpoints import pickles
from lit_core.networks.checkpoints.reparametrised import folded
from lit_core.networks.families.resnet_cifar import ResNet
from lit_core.networks.teacher import Teacher, TeacherError, check_outputs_are_finite, read_teacher
from lit_spec import LibraryRequest

State = Mapping[str, Tensor]


def network(seed: int = 0, classes: int = 3) -> ResNet:
    torch.manual_seed(seed)
    return ResNet([1, 1, 1], 4, 1, classes, "A", "fc", "downsample")


BASE: State = network().state_dict()
OTHER: State = network(seed=1).state_dict()
NAMESPACE = argparse.Namespace(lr=0.1)


def under(prefix: str, state: State = BASE) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def read(tmp_path: Path, content: Any, request: LibraryRequest | None = None, **options: Any) -> Teacher:
    torch.save(content, tmp_path / "teacher.pt", **options)
    return read_teacher(tmp_path / "teacher.pt", request)


def same(found: State, wanted: State) -> bool:
    return list(found) == list(wanted) and all(torch.equal(found[name], wanted[name]) for name in wanted)


# --- where the tensors are ----------------------------------------------------------------------------------------


WRAPPED: dict[str, tuple[Any, list[str]]] = {
    "a state dict": (dict(BASE), []),
    "an OrderedDict": (OrderedDict(BASE), []),
    "lightning": (
        {
            "epoch": 3,
            "pytorch-lightning_version": "2.5.1",
            "state_dict": {**under("model."), "criterion.weight": torch.ones(3), "metric.confmat": torch.zeros(3, 3)},
            "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(0.3)}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]}],
            "hyper_parameters": NAMESPACE,
        },
        [
            "the tensors are those of state_dict",
            "the prefix model. removed from the names",
            "left out: criterion.weight, metric.confmat",
        ],
    ),
    "objects beside the tensors": (
        {
            "state_dict": BASE,
            "args": NAMESPACE,
            "score": np.float64(0.5),
            "path": PurePosixPath("/data"),
            "history": defaultdict(list, loss=[0.1]),
        },
        ["the tensors are those of state_dict"],
    ),
    "several GPUs and compiled": (
        {"model": under("module._orig_mod.")},
        [
            "the tensors are those of model",
            "_orig_mod. removed from the names",
            "the prefix module. removed from the names",
        ],
    ),
    "compiled and several GPUs": (
        under("_orig_mod.module."),
        ["_orig_mod. removed from the names", "the prefix module. removed from the names"],
    ),
    "compiled blocks": (
        {name.replace("layer1.0.", "layer1.0._orig_mod."): tensor for name, tensor in BASE.items()},
        ["_orig_mod. removed from the names"],
    ),
    "a distiller": (
        {"state_dict": {**under("architecture."), "_distiller.x.a": torch.ones(1)}},
        [
            "the tensors are those of state_dict",
            "the prefix architecture. removed from the names",
            "left out: _distiller.x.a",
        ],
    ),
    "a student in a wrapper": (under("module.student."), ["the prefix module.student. removed from the names"]),
    "a normaliser before it": (
        {"0.mean": torch.zeros(1, 1, 1), "0.std": torch.ones(1, 1, 1), **under("1.")},
        ["the prefix 1. removed from the names", "left out: 0.mean, 0.std"],
    ),
    "raw and averaged": (
        {"state_dict": BASE, "state_dict_ema": OTHER},
        [
            "the tensors are those of state_dict",
            "raw weights taken, and not those that are averaged over the training: state_dict_ema",
        ],
    ),
    "averaged first": (
        {"params_ema": OTHER, "params": BASE},
        [
            "the tensors are those of params",
            "raw weights taken, and not those that are averaged over the training: params_ema",
        ],
    ),
    "averaged alone": (
        {"model_ema": BASE},
        [
            "the tensors are those of model_ema",
            "these weights are averaged over the training, and there are no raw ones",
        ],
    ),
    "torch's average": (
        {"n_averaged": torch.tensor(5), **under("module.")},
        [
            "the prefix module. removed from the names",
            "left out: n_averaged",
            "these weights are averaged over the training, and there are no raw ones",
        ],
    ),
    "an average in a wrapper": (
        {"initted": torch.tensor(True), **under("ema_model.", OTHER), **under("online_model.")},
        [
            "the prefix online_model. removed from the names",
            f"left out: initted, {len(BASE)} tensors under ema_model",
            "raw weights taken, and not those that are averaged over the training: ema_model",
        ],
    ),
    "two wrappers": ({"checkpoint": {"state_dict": BASE}}, ["the tensors are those of checkpoint.state_dict"]),
    "a list": ([BASE], ["the tensors are those of 0"]),
    "the same twice": (
        {"student": under("module."), "teacher": under("module.")},
        ["the tensors are those of student", "the prefix module. removed from the names"],
    ),
    "a profiler's buffers": (
        {**BASE, "total_ops": torch.zeros(1), "layer1.0.total_params": torch.zeros(1)},
        ["2 buffers of a profiler left out"],
    ),
    "a module": (network(), ["read from a pickled module, without its code"]),
    "a module on several GPUs": (
        {"net": nn.DataParallel(network()), "acc": 93.1},
        [
            "read from a pickled module, without its code",
            "the tensors are those of net",
            "the prefix module. removed from the names",
        ],
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_tensors_are_found_and_what_was_done_is_said(tmp_path: Path, name: str) -> None:
    content, steps = WRAPPED[name]
    teacher = read(tmp_path, content)
    assert same(teacher.state, BASE)
    assert teacher.unwrapped == steps


@pytest.mark.parametrize(
    "options",
    [
        {"pickle_protocol": 4},
        {"pickle_protocol": 5},
        {"_use_new_zipfile_serialization": False},
        {"_use_new_zipfile_serialization": False, "pickle_protocol": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["objects beside the tensors", "a module"])
def test_every_form_of_torch_save_is_read(tmp_path: Path, options: dict[str, Any], name: str) -> None:
    assert same(read(tmp_path, WRAPPED[name][0], **options).state, BASE)


def test_views_half_precision_and_parameters_are_read(tmp_path: Path) -> None:
    fc = torch.randn(6, 16).half()
    content = {**BASE, "fc.weight": nn.Parameter(fc[::2])}
    assert torch.equal(read(tmp_path, content).state["fc.weight"], fc[::2].float())


def test_of_several_networks_none_is_assumed(tmp_path: Path) -> None:
    with pytest.raises(TeacherError) as failure:
        read(tmp_path, {"student": under("module."), "teacher": under("module.", OTHER)})
    said = str(failure.value)
    assert "student.module (resnet_cifar of 3 blocks), teacher.module (resnet_cifar of 3 blocks)" in said
    assert "Save the state dict of one of them" in said


def test_a_name_that_is_there_with_and_without_a_tools_prefix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"has conv1\.weight twice"):
        read(tmp_path, {**BASE, "_orig_mod.conv1.weight": torch.zeros(1)})


# --- nothing is run -----------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("touched-by-a-pickle"),))


def test_objects_beside_the_tensors_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert same(read(tmp_path, {"state_dict": BASE, "hook": Evil(), "more": [Evil()]}).state, BASE)
    assert not Path("touched-by-a-pickle").exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "torch.load", "torch._utils._import_dotted_name"])
def test_a_pickle_calls_nothing_but_what_makes_tensors(name: str) -> None:
    module, _, function = name.rpartition(".")
    called = pickle.GLOBAL + f"{module}\n{function}\n".encode() + b"(X\x01\x00\x00\x001tR."
    file = BytesIO(b"\x80\x02" + called)
    found = pickles.load(file)
    assert isinstance(found, pickles.Skipped)
    assert found.name == name


def test_a_type_of_numbers_is_not_called() -> None:
    with pytest.raises(pickle.UnpicklingError, match="it calls"):
        pickles.load(BytesIO(b"\x80\x02ctorch\nfloat32\n)R."))


@pytest.mark.parametrize(
    ("steps", "filled"),
    [(b"K\x01K\x02s", "StorageType"), (b"(K\x01K\x02u", "StorageType"), (b"K\x01a", "StorageType")],
    ids=["setitem", "setitems", "append"],
)
def test_items_are_put_into_containers_alone(steps: bytes, filled: str) -> None:
    class Unpickler(pickles.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return torch.serialization.StorageType(name)

    with pytest.raises(pickle.UnpicklingError, match=f"puts items into a {filled}"):
        Unpickler(BytesIO(b"\x80\x02ctorch\nFloatStorage\n" + steps + b".")).load()


def test_a_tar_archive_that_begins_as_a_pickle_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "teacher.pt", "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("\x80\x02storages"))
    with pytest.raises(TeacherError, match="is a tar archive"):
        read_teacher(tmp_path / "teacher.pt")


def test_a_module_that_contains_itself_is_refused(tmp_path: Path) -> None:
    endless = nn.Sequential(nn.Linear(1, 1))
    endless._modules["1"] = endless
    with pytest.raises(TeacherError, match="more than 10000 modules"):
        read(tmp_path, endless)


SCALARS = st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5))
LEAVES = st.one_of(
    SCALARS,
    st.sampled_from([torch.zeros(2, 2), torch.ones(3), NAMESPACE, np.float64(1.5), np.arange(3), Path("/x"), Evil()]),
    st.sampled_from([nn.Linear(2, 2), nn.DataParallel(nn.ReLU()), torch.Size([1]), torch.float16, {1, 2}]),
)
KEYS = st.one_of(
    st.sampled_from(["state_dict", "model", "module", "ema", "0", "a.b"]), st.text(max_size=4), st.integers()
)
CONTENTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=3).map(OrderedDict),
        st.builds(argparse.Namespace, a=inner, b=inner),
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=CONTENTS, state=st.sampled_from([None, BASE, under("module.")]))
def test_whatever_is_in_a_file_it_is_read_or_refused(tmp_path: Path, content: Any, state: State | None) -> None:
    if state is None:
        with suppress(TeacherError):
            read(tmp_path, content)
    else:
        assert same(read(tmp_path, {"here": state, "beside": content}).state, BASE)
    assert not Path("touched-by-a-pickle").exists()


# --- weights in parts ---------------------------------------------------------------------------------------------


PARTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "weight norm of a convolution": (lambda: weight_norm(nn.Conv2d(3, 5, 3)), (2, 3, 8, 8)),
    "weight norm of one output": (lambda: weight_norm(nn.Conv2d(3, 1, 3)), (2, 3, 8, 8)),
    "weight norm as a whole": (lambda: weight_norm(nn.Linear(4, 5), dim=None), (2, 4)),
    "weight norm of columns": (lambda: weight_norm(nn.Linear(4, 5), dim=1), (2, 4)),
    "weight norm, parametrised": (lambda: parametrizations.weight_norm(nn.Conv2d(3, 5, 3)), (2, 3, 8, 8)),
    "spectral norm": (lambda: spectral_norm(nn.Conv2d(3, 5, 3)), (2, 3, 8, 8)),
    "spectral norm, transposed": (lambda: spectral_norm(nn.ConvTranspose2d(4, 4, 3)), (2, 4, 8, 8)),
    "spectral norm, parametrised": (lambda: parametrizations.spectral_norm(nn.Linear(4, 4)), (2, 4)),
    "pruning": (lambda: prune.l1_unstructured(nn.Conv2d(3, 5, 3), "weight", 0.5), (2, 3, 8, 8)),
    "pruning of a bias": (lambda: prune.l1_unstructured(nn.Conv2d(3, 5, 3), "bias", 0.5), (2, 3, 8, 8)),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", PARTS)
def test_weights_in_parts_are_put_together(name: str) -> None:
    make, size = PARTS[name]
    torch.manual_seed(0)
    module = nn.Sequential(make())
    for _ in range(20):  # a spectral norm finds its vectors in training
        module.train()(torch.randn(size))
    tensors, steps = folded(module.eval().state_dict())
    assert len(steps) == 1
    plain = nn.Sequential(_plain(module[0]))
    plain.load_state_dict(tensors)
    x = torch.randn(size)
    assert torch.allclose(plain(x), module(x), atol=1e-6)


def _plain(module: nn.Module) -> nn.Module:
    """A layer of the same size."""
    if isinstance(module, nn.Linear):
        return nn.Linear(module.in_features, module.out_features)
    assert isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
    kind = nn.ConvTranspose2d if isinstance(module, nn.ConvTranspose2d) else nn.Conv2d
    return kind(module.in_channels, module.out_channels, module.kernel_size[0])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_teacher_with_weight_norm_is_read(tmp_path: Path) -> None:
    net = network()
    weight_norm(net.fc)
    weight_norm(net.conv1)
    teacher = read(tmp_path, net.state_dict())
    assert teacher.unwrapped == ["weight norm of 2 tensors folded"]
    plain = network()
    plain.load_state_dict(teacher.state)
    x = torch.randn(2, 1, 8, 8)
    assert torch.allclose(plain.eval()(x), net.eval()(x), atol=1e-6)


def test_parts_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"a\.weight_g, a\.weight_v do not fit together"):
        read(tmp_path, {"a.weight_g": torch.ones(3, 1), "a.weight_v": torch.ones(2, 2, 2)})


# --- values that are none of a network ----------------------------------------------------------------------------


def test_integers_in_the_place_of_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"fc\.weight is of type torch\.int8, but the network has floating-point"):
        read(tmp_path, {**BASE, "fc.weight": torch.ones(3, 16, dtype=torch.int8)})


def test_outputs_that_are_not_finite_are_told(tmp_path: Path) -> None:
    broken = copy.deepcopy(dict(BASE))
    broken["bn1.running_var"] = torch.full_like(broken["bn1.running_var"], -1.0)
    with pytest.raises(TeacherError, match="outputs on an input of zeros are not finite"):
        check_outputs_are_finite(read(tmp_path, broken))
    check_outputs_are_finite(read(tmp_path, BASE))


# --- libraries' networks that were changed ------------------------------------------------------------------------


RESNET = LibraryRequest.model_validate({"library": "torchvision", "name": "resnet18"})


def resnet(head: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = torchvision.models.resnet18(num_classes=10)
    made.fc = head
    return made


def test_a_single_linear_head_is_taken_in_any_wrapping(tmp_path: Path) -> None:
    net = resnet(nn.Sequential(nn.Dropout(0.2), nn.Linear(512, 7)))
    teacher = read(tmp_path, {"state_dict": under("model.", net.state_dict())}, RESNET)
    assert teacher.unwrapped[-1] == "the linear layer fc.1 taken as the head fc"
    assert teacher.recognised.architecture.classes == 7
    assert torch.equal(teacher.state["fc.weight"], net.state_dict()["fc.1.weight"])


def test_a_head_without_a_bias_gets_zeros(tmp_path: Path) -> None:
    teacher = read(tmp_path, resnet(nn.Linear(512, 7, bias=False)).state_dict(), RESNET)
    assert teacher.unwrapped == ["the head fc has no bias: zeros added"]
    assert torch.equal(teacher.state["fc.bias"], torch.zeros(7))


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (
            nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 7)),
            "but for its head: fc.0.weight, fc.0.bias, fc.2.weight, fc.2.bias are in the place of fc",
        ),
        (nn.Identity(), "without its head, because fc.weight, fc.bias are missing"),
    ],
    ids=["two layers", "none"],
)
def test_where_only_the_head_differs_the_message_says_so(tmp_path: Path, head: nn.Module, said: str) -> None:
    with pytest.raises(TeacherError) as failure:
        read(tmp_path, resnet(head).state_dict(), RESNET)
    assert said in str(failure.value)
    assert "architecture.kwargs" not in str(failure.value)


def test_the_same_layers_under_other_names_are_taken_in_their_order_when_asked(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(num_classes=10).state_dict()
    renamed = {name.replace("layer", "stage_").replace("conv1", "first"): tensor for name, tensor in state.items()}
    with pytest.raises(TeacherError, match=r'one for one in order and shape.*add "rename": "by_order"'):
        read(tmp_path, renamed, RESNET)
    asked = LibraryRequest.model_validate({**RESNET.model_dump(mode="json"), "rename": "by_order"})
    teacher = read(tmp_path, renamed, asked)
    assert all(torch.equal(teacher.state[name], tensor) for name, tensor in state.items())
    assert "renamed in their order: first.weight as conv1.weight" in teacher.unwrapped[0]


def test_a_library_is_proposed_for_a_wrapped_network(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(num_classes=10).state_dict()
    with pytest.raises(TeacherError, match="has the tensors of torchvision's resnet18, timm's resnet18"):
        read(tmp_path, {"model": under("module.", state)})


def test_a_safetensors_file_is_unwrapped_too(tmp_path: Path) -> None:
    save_file(under("model."), tmp_path / "teacher.safetensors")
    teacher = read_teacher(tmp_path / "teacher.safetensors")
    assert same(teacher.state, BASE)
    assert teacher.unwrapped == ["the prefix model. removed from the names"]
