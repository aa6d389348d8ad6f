"""Checkpoints as trainers and tools write them: the network's tensors are found, and nothing else is read or run."""

from __future__ import annotations

import argparse
import copy
import pickle
import re
import struct
import sys
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from lit_core.networks.checkpoints import pickles
from lit_core.networks.checkpoints.files import MAGIC_NUMBER, PROTOCOL
from lit_core.networks.checkpoints.reparametrised import folded
from lit_core.networks.families.resnet_cifar import ResNet
from lit_core.networks.teacher import Teacher, TeacherError, check_outputs_are_finite, inspect_teacher, read_teacher
from lit_spec import LibraryRequest, TeacherWeights

State = Mapping[str, Tensor]


def network(seed: int = 0, classes: int = 3) -> ResNet:
    torch.manual_seed(seed)
    return ResNet([1, 1, 1], 4, 1, classes, "A", "fc", "downsample")


BASE: State = network().state_dict()
OTHER: State = network(seed=1).state_dict()
NAMESPACE = argparse.Namespace(lr=0.1)


def under(prefix: str, state: State = BASE) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def read(
    tmp_path: Path,
    content: Any,
    request: LibraryRequest | None = None,
    weights: TeacherWeights | None = None,
    **options: Any,
) -> Teacher:
    torch.save(content, tmp_path / "teacher.pt", **options)
    return read_teacher(tmp_path / "teacher.pt", request, weights)


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


SEVERAL: dict[str, Any] = {
    "one of them bare": {**BASE, **under("teacher.", OTHER)},
    "prefixes of two lengths": {"state_dict": {**under("student."), **under("teacher.module.", OTHER)}},
}


@pytest.mark.parametrize("name", SEVERAL)
def test_a_second_network_is_seen_whatever_its_prefix(tmp_path: Path, name: str) -> None:
    with pytest.raises(TeacherError, match="weights of several networks"):
        read(tmp_path, SEVERAL[name])


RAW_AND_AVERAGED: dict[str, Any] = {
    "raw ones bare": {**BASE, **under("ema.", OTHER)},
    "raw ones deeper": {"state_dict": {**under("model.net."), **under("ema.", OTHER)}},
    # mmengine's hook swaps them.
    "mmengine": {"state_dict": OTHER, "ema_state_dict": {"steps": torch.tensor(3), **under("module.")}},
}


@pytest.mark.parametrize("name", RAW_AND_AVERAGED)
def test_raw_weights_are_taken_wherever_they_are(tmp_path: Path, name: str) -> None:
    teacher = read(tmp_path, RAW_AND_AVERAGED[name])
    assert same(teacher.state, BASE)
    assert "raw weights taken" in teacher.unwrapped[-1]
    assert (teacher.weights, teacher.weights_choices) == ("raw", ["raw", "ema"])


@pytest.mark.parametrize("name", RAW_AND_AVERAGED)
def test_averaged_weights_are_taken_where_they_are_asked_for(tmp_path: Path, name: str) -> None:
    teacher = read(tmp_path, RAW_AND_AVERAGED[name], weights=TeacherWeights.EMA)
    assert same(teacher.state, OTHER)
    assert "and not the raw ones" in teacher.unwrapped[-1]
    inspection = inspect_teacher(teacher)
    assert (inspection.weights, inspection.weights_choices) == ("ema", ["raw", "ema"])
    assert same(read(tmp_path, RAW_AND_AVERAGED[name], weights=TeacherWeights.RAW).state, BASE)


@pytest.mark.parametrize(
    ("content", "has", "lacks", "said"),
    [
        (BASE, "raw", "ema", "no weights that are averaged over the training, only raw ones"),
        ({"model_ema": BASE}, "ema", "raw", "only weights that are averaged over the training"),
    ],
    ids=["raw alone", "averaged alone"],
)
def test_weights_that_a_file_lacks_are_refused(tmp_path: Path, content: Any, has: str, lacks: str, said: str) -> None:
    for weights in (None, TeacherWeights(has)):
        teacher = read(tmp_path, content, weights=weights)
        assert same(teacher.state, BASE)
        assert (teacher.weights, teacher.weights_choices) == (has, [has])
    with pytest.raises(TeacherError, match=f"teacher_weights is {lacks}, but the file has {said}") as refused:
        read(tmp_path, content, weights=TeacherWeights(lacks))
    assert refused.value.field == "teacher_weights"


def test_of_several_averages_none_is_assumed(tmp_path: Path) -> None:
    content = {"model": BASE, "student": {"ema": under("module.")}, "teacher": {"ema": under("module.", OTHER)}}
    assert same(read(tmp_path, content).state, BASE)
    with pytest.raises(TeacherError, match=r"student\.ema\.module .*, teacher\.ema\.module"):
        read(tmp_path, content, weights=TeacherWeights.EMA)


@pytest.mark.parametrize(
    "content",
    [
        {"optimal_model": BASE},
        {"models": {0: BASE}},
        {"metrics": {f"e{n}": {"loss": torch.tensor(1.0)} for n in range(40)}, "run": {"model": BASE}},
        {"state_dict": BASE, "log": {"acc_g": torch.ones(3, 1), "acc_v": torch.ones(2, 2, 2)}},
        {"state_dict": BASE, "loss": {f"loss_{part}": torch.tensor(1.0) for part in ("orig", "u", "v")}},
    ],
    ids=[
        "a key like optimizer",
        "a number as key",
        "many single tensors",
        "parts that fit nowhere",
        "scalars in parts",
    ],
)
def test_other_content_does_not_hide_the_weights(tmp_path: Path, content: Any) -> None:
    assert same(read(tmp_path, content).state, BASE)


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


def unpickled(content: bytes) -> Any:
    def no_storage(key: str, kind: Any, size: int) -> Any:
        raise AssertionError("there are no storages")

    return pickles.Unpickler(BytesIO(content), no_storage).load()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "torch.load", "torch._utils._import_dotted_name"])
def test_a_pickle_calls_nothing_but_what_makes_tensors(name: str) -> None:
    module, _, function = name.rpartition(".")
    called = pickle.GLOBAL + f"{module}\n{function}\n".encode() + b"(X\x01\x00\x00\x001tR."
    found = unpickled(b"\x80\x02" + called)
    assert isinstance(found, pickles.Skipped)
    assert found.name == name


def test_naming_a_part_of_torch_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch imports this part when somebody first asks for it: as if nobody had.
    monkeypatch.delattr(torch, "_inductor", raising=False)
    for name in [name for name in sys.modules if f"{name}.".startswith("torch._inductor.")]:
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    pickles.Unpickler(BytesIO(b"\x80\x02ctorch\n_inductor\n."), None).load()
    assert set(sys.modules) == before


NESTED = b"K\x01K\x01\x86" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(40))
"""A tuple of two to the power of 40 numbers, in a few bytes."""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x80\x02ctorch\nfloat32\n)R.", "it calls a dtype"),
        (b"\x80\x02" + NESTED + b")R.", "it calls a tuple"),
        (b"\x80\x02}" + NESTED + b"Ns.", "a key is neither text nor a number"),
        (b"\x80\x02ctorch\nFloatStorage\nK\x01K\x02s.", "puts items into a StorageType"),
        (b"\x80\x02ctorch\nFloatStorage\n(K\x01K\x02u.", "puts items into a StorageType"),
        (b"\x80\x02ctorch\nFloatStorage\nK\x01a.", "puts items into a StorageType"),
        (b"\x80\x02" + NESTED + b"Q.", "a storage is named in no way"),
        (b"\x80\x02c" + b"a" * 2000 + b"\nb\n.", "more than a thousand letters"),
    ],
    ids=["a type", "a tuple", "a nested key", "setitem", "setitems", "append", "a storage's name", "a long name"],
)
def test_steps_that_are_dangerous_or_take_for_ever_are_refused(content: bytes, said: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=said):
        unpickled(content)


def test_sets_of_nested_tuples_are_not_made() -> None:
    assert unpickled(b"\x80\x04\x8f(K\x01K\x02\x90.") == {1, 2}
    assert unpickled(b"\x80\x04(" + NESTED + b"K\x03\x91.") == {3}


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def pickled_tensor(
    key: str, elements: int, size: tuple[int, ...], stride: tuple[int, ...], *, view: bytes = b""
) -> bytes:
    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
    storage += b"J" + struct.pack("<i", elements) + view + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + numbers(size) + numbers(stride) + b"\x89NtR"


def zipped(path: Path, content: bytes, *more: tuple[str, bytes], compressed: bool = False) -> Path:
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
        for name, member in more:
            archive.writestr(name, member)
    return path


def in_old_format(path: Path, content: bytes, keys: list[str], storages: bytes = b"") -> Path:
    start = b"".join(pickle.dumps(one, 2) for one in (MAGIC_NUMBER, PROTOCOL, {"little_endian": True}))
    path.write_bytes(start + b"\x80\x02" + content + b"." + pickle.dumps(keys, 2) + storages)
    return path


@pytest.mark.parametrize(
    ("size", "stride"),
    [((5,), (1,)), ((2, 2), (3, 1)), ((2**40,), (1,)), ((2,), (-1,)), ((2,), (2**47,))],
    ids=["longer", "a wide stride", "huge", "backwards", "a huge stride"],
)
def test_tensors_are_within_their_storages(tmp_path: Path, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
    content = b"}" + text("a") + pickled_tensor("0", 4, size, stride) + b"s"
    zip_file = zipped(tmp_path / "new.pt", content, ("archive/data/0", bytes(16)))
    old_file = in_old_format(tmp_path / "old.pt", content, ["0"], struct.pack("<q", 4) + bytes(16))
    for file in (zip_file, old_file):
        with pytest.raises(TeacherError, match=r"larger than its storage|no whole number"):
            read_teacher(file)


@pytest.mark.parametrize(
    ("content", "keys", "storages", "said"),
    [
        (pickled_tensor("0", 4, (4,), (1,)), [], b"", "does not name each of its storages once"),
        (pickled_tensor("0", 4, (4,), (1,)), ["0"], struct.pack("<q", 9) + bytes(36), "has two lengths"),
        (pickled_tensor("0", 4, (4,), (1,)), ["0"], struct.pack("<q", 4) + bytes(3), "ends within a storage"),
        (pickled_tensor("0", 2**30, (4,), (1,)), ["0"], b"", "longer than the file"),
        (
            pickled_tensor("0", 4, (4,), (1,), view=b"(" + text("v") + b"K\x00K\x04t"),
            ["0"],
            struct.pack("<q", 4) + bytes(16),
            "in no way that torch has used since 2018",
        ),
    ],
    ids=["not listed", "another length", "cut off", "longer than the file", "a view"],
)
def test_storages_of_the_old_format_are_whole(
    tmp_path: Path, content: bytes, keys: list[str], storages: bytes, said: str
) -> None:
    with pytest.raises(TeacherError, match=said):
        read_teacher(in_old_format(tmp_path / "old.pt", b"}" + text("a") + content + b"s", keys, storages))


def test_archives_that_readers_may_read_differently_are_refused(tmp_path: Path) -> None:
    tensor = b"}" + text("a") + pickled_tensor("0", 4, (4,), (1,)) + b"s"
    with pytest.raises(TeacherError, match="is compressed, or shorter"):
        read_teacher(zipped(tmp_path / "packed.pt", tensor, ("archive/data/0", bytes(16)), compressed=True))
    with pytest.raises(TeacherError, match="has a member twice"), pytest.warns(UserWarning, match="Duplicate name"):
        read_teacher(zipped(tmp_path / "twice.pt", tensor, ("archive/data.pkl", b"\x80\x02}.")))
    with pytest.raises(TeacherError, match="bytes of its numbers in the other order"):
        read_teacher(zipped(tmp_path / "big.pt", tensor, ("archive/byteorder", b"big"), ("archive/data/0", bytes(16))))
    old = in_old_format(tmp_path / "old.pt", b"}", [])
    old.write_bytes(old.read_bytes() + zipped(tmp_path / "tail.pt", b"}").read_bytes())
    with pytest.raises(TeacherError, match="the state dict is empty"):
        read_teacher(old)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_no_archive_reaches_torchscript(tmp_path: Path) -> None:
    """Of an archive with two directories Python's reader sees one, and torch's reader the other, which is a program."""
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), str(tmp_path / "script.pt"))
    program = (tmp_path / "script.pt").read_bytes()
    end = program.rfind(b"PK\5\6")
    members, size, start = struct.unpack("<HLL", program[end + 10 : end + 20])
    name = b"archive/data.pkl"
    comment = b"c" * (size - 46 - len(name))
    other = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 1, 1, len(name), 0, len(comment), 0, 0, 0, 0)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, members, members, size, start, 0)
    (tmp_path / "two.pt").write_bytes(program[: start + size] + other + name + comment + last)
    assert zipfile.ZipFile(tmp_path / "two.pt").namelist() == ["archive/data.pkl"]
    reached = patch("torch.jit.load", side_effect=AssertionError("torch's reader was reached"))
    with reached, pytest.raises(TeacherError, match="cannot be read"):
        read_teacher(tmp_path / "two.pt")


def test_sparse_and_quantised_tensors_beside_the_weights_are_left_alone(tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)
    content = {
        "state_dict": BASE,
        "sparse": torch.eye(2).to_sparse(),
        "csr": torch.eye(2).to_sparse_csr(),
        "q": quantised,
    }
    assert same(read(tmp_path, content).state, BASE)
    with pytest.raises(TeacherError, match=r"fc\.weight is of type a sparse tensor, not a tensor"):
        read(tmp_path, {**BASE, "fc.weight": BASE["fc.weight"].to_sparse()})


@pytest.mark.parametrize("dtype", [torch.uint64, torch.float8_e4m3fn, torch.complex64])
def test_tensors_of_other_types_beside_the_weights_are_left_alone(tmp_path: Path, dtype: torch.dtype) -> None:
    content = {"state_dict": BASE, "rng": torch.zeros(2, dtype=dtype), "raw": torch.zeros(2).untyped_storage()}
    assert same(read(tmp_path, content).state, BASE)


def test_wide_and_deep_files_are_read_in_time(tmp_path: Path) -> None:
    wide = {f"{place}": {"a": place} for place in range(100_000)}
    with pytest.raises(TeacherError, match="holds no tensors"):
        read(tmp_path, wide)
    deep: Any = BASE
    for _ in range(30):
        deep = {"x": deep}
    with pytest.raises(TeacherError, match="holds no tensors"):
        read(tmp_path, deep)


def test_a_module_that_contains_itself_is_refused(tmp_path: Path) -> None:
    endless = nn.Sequential(nn.Linear(1, 1))
    endless._modules["1"] = endless
    with pytest.raises(TeacherError, match="more than 10000 modules or"):
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


PARTS_OF_NOTHING: dict[str, State] = {
    "weight norm of another size": {"a_g": torch.ones(3, 1, 1), "a_v": torch.ones(2, 2, 2)},
    "weight norm of a number": {"a_g": torch.ones(()), "a_v": torch.ones(())},
    "spectral norm of numbers": {f"a_{part}": torch.ones(()) for part in ("orig", "u", "v")},
    "spectral norm of another size": {"a_orig": torch.ones(2, 3), "a_u": torch.ones(6), "a_v": torch.ones(1)},
    "a mask of another size": {"a_orig": torch.ones(2, 3), "a_mask": torch.ones(3)},
}


@pytest.mark.parametrize("name", PARTS_OF_NOTHING)
def test_what_does_not_fit_together_stays_as_it_is(tmp_path: Path, name: str) -> None:
    tensors, steps = folded(PARTS_OF_NOTHING[name])
    assert (tensors, steps) == (dict(PARTS_OF_NOTHING[name]), [])
    assert same(read(tmp_path, {"state_dict": BASE, "beside": PARTS_OF_NOTHING[name]}).state, BASE)


# --- values that are none of a network ----------------------------------------------------------------------------


def test_integers_in_the_place_of_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"fc\.weight is of type torch\.int8, but the network has floating-point"):
        read(tmp_path, {**BASE, "fc.weight": torch.ones(3, 16, dtype=torch.int8)})


def test_outputs_that_are_not_finite_are_told(tmp_path: Path) -> None:
    broken = copy.deepcopy(dict(BASE))
    broken["bn1.running_var"] = torch.full_like(broken["bn1.running_var"], -1.0)
    with pytest.raises(TeacherError, match="outputs on an input of zeros are not finite"):
        check_outputs_are_finite(read(tmp_path, broken))
    both = {"state_dict": broken, "state_dict_ema": BASE}
    with pytest.raises(
        TeacherError, match="give ema as teacher_weights, which the file has too, or an earlier"
    ) as told:
        check_outputs_are_finite(read(tmp_path, both))
    assert told.value.field == "teacher_weights"
    check_outputs_are_finite(read(tmp_path, both, weights=TeacherWeights.EMA))
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
    with pytest.raises(TeacherError, match=r"one for one in order and shape.*give by_order as architecture\.rename"):
        read(tmp_path, renamed, RESNET)
    asked = LibraryRequest.model_validate({**RESNET.model_dump(mode="json"), "rename": "by_order"})
    teacher = read(tmp_path, renamed, asked)
    assert all(torch.equal(teacher.state[name], tensor) for name, tensor in state.items())
    assert "renamed in their order: first.weight as conv1.weight" in teacher.unwrapped[0]


def test_names_that_mean_other_layers_are_taken_in_their_order_too(tmp_path: Path) -> None:
    request = LibraryRequest.model_validate({"library": "timm", "name": "vit_tiny_patch16_224"})
    state = timm.create_model("vit_tiny_patch16_224", depth=12).state_dict()
    from_one = {
        re.sub(r"^blocks\.(\d+)", lambda found: f"blocks.{int(found[1]) + 1}", name): tensor
        for name, tensor in state.items()
    }
    asked = LibraryRequest.model_validate({**request.model_dump(mode="json"), "rename": "by_order"})
    teacher = read(tmp_path, from_one, asked)
    assert all(torch.equal(teacher.state[name], tensor) for name, tensor in state.items())


def test_a_head_beside_the_network_is_taken(tmp_path: Path) -> None:
    net = resnet(nn.Identity())
    head = nn.Linear(512, 7)
    content = {**under("backbone.", net.state_dict()), **under("classifier.", head.state_dict())}
    teacher = read(tmp_path, {"state_dict": content}, RESNET)
    assert torch.equal(teacher.state["fc.weight"], head.weight)
    assert teacher.unwrapped[1:] == [
        "the prefix backbone. removed from the names",
        "the linear layer classifier taken as the head fc",
    ]
    with pytest.raises(TeacherError, match="but for its head: rotation"):
        read(tmp_path, {**net.state_dict(), **under("rotation.", head.state_dict())}, RESNET)


def test_a_library_is_proposed_for_a_wrapped_network(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(num_classes=10).state_dict()
    with pytest.raises(TeacherError, match="has the tensors of torchvision/resnet18, timm/resnet18"):
        read(tmp_path, {"model": under("module.", state)})


def test_a_safetensors_file_is_unwrapped_too(tmp_path: Path) -> None:
    save_file(under("model."), tmp_path / "teacher.safetensors")
    teacher = read_teacher(tmp_path / "teacher.safetensors")
    assert same(teacher.state, BASE)
    assert teacher.unwrapped == ["the prefix model. removed from the names"]
