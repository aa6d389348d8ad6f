"""Teachers as people have them, and files that are none."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lit_core.measuring.cost import count_parameters
from lit_core.networks.families import family_of
from lit_core.networks.families.resnet_cifar import ResNet
from lit_core.networks.teacher import TeacherError, build_teacher, inspect_teacher, read_teacher
from lit_core.trainer.inspect import main as inspect_file
from lit_spec import Architecture, Inspection, JobError
from lit_spec.networks.students import evenly


def network(
    blocks: int = 3,
    width: int = 4,
    channels: int = 3,
    classes: int = 10,
    shortcut: str = "A",
    head: str = "fc",
    projection: str = "downsample",
) -> ResNet:
    torch.manual_seed(0)
    return ResNet([blocks] * 3, width, channels, classes, shortcut, head, projection)


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    net = network()
    state: Any = {prefix + k: v for k, v in net.state_dict().items()}
    content = {wrapper: state, "epoch": 3, "acc": 91.2} if wrapper else state
    teacher = read_teacher(save(tmp_path / "t.pt", content))
    assert teacher.format == "pt"
    assert list(teacher.state) == list(net.state_dict())
    assert all(torch.equal(teacher.state[k], v) for k, v in net.state_dict().items())


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("head", ["fc", "linear"])
@pytest.mark.parametrize("projection", ["downsample", "shortcut"])
@pytest.mark.parametrize(("blocks", "width", "channels", "classes"), [(1, 4, 1, 2), (3, 6, 3, 10), (5, 16, 4, 100)])
def test_the_architecture_is_read_from_the_tensors(
    tmp_path: Path, blocks: int, width: int, channels: int, classes: int, shortcut: str, head: str, projection: str
) -> None:
    net = network(blocks, width, channels, classes, shortcut, head, projection)
    save_file(net.state_dict(), tmp_path / "t.safetensors")
    teacher = read_teacher(tmp_path / "t.safetensors")
    found = teacher.recognised.architecture
    assert (found.depth, found.blocks) == (6 * blocks + 2, [blocks] * 3)
    assert (found.channels, found.classes) == (channels, classes)
    assert found.options["width"] == width
    assert found.options["shortcut"] == shortcut
    rebuilt = family_of(found).build(found)
    rebuilt.load_state_dict(teacher.state)
    x = torch.randn(2, channels, 8, 8)
    assert torch.equal(rebuilt.eval()(x), net.eval()(x))


def test_what_each_student_depth_saves_is_what_building_it_counts(tmp_path: Path) -> None:
    net = network(6, 12, 1, 10, "B")
    save_file(net.state_dict(), tmp_path / "t.safetensors")
    inspection = inspect_teacher(read_teacher(tmp_path / "t.safetensors"))
    assert [s.depth for s in inspection.students] == [8, 14, 20, 26, 32, 38]
    assert inspection.parameters == count_parameters(net)
    for option in inspection.students:
        arch = inspection.architecture.model_copy(update={"blocks": option.blocks})
        assert option.parameters == count_parameters(family_of(arch).build(arch))
        assert option.parameters_ratio == inspection.parameters * 1000 // option.parameters / 1000


@pytest.mark.long
def test_depth_1202_is_inspected(tmp_path: Path) -> None:
    save_file(network(200, 2).state_dict(), tmp_path / "t.safetensors")
    inspection = inspect_teacher(read_teacher(tmp_path / "t.safetensors"))
    assert inspection.architecture.depth == 1202
    assert len(inspection.students) == 200


def test_half_precision_and_missing_counters_are_accepted(tmp_path: Path) -> None:
    state = {k: v.half() for k, v in network().state_dict().items() if not k.endswith("num_batches_tracked")}
    teacher = read_teacher(save(tmp_path / "t.pt", state))
    assert all(v.dtype == torch.float32 for k, v in teacher.state.items() if "num_batches" not in k)
    save_file(teacher.state, tmp_path / "teacher.safetensors")
    built = build_teacher(teacher.recognised.architecture, tmp_path / "teacher.safetensors")
    assert not built.network.training
    assert not any(p.requires_grad for p in built.network.parameters())


def broken_state(change: str) -> dict[str, Any]:
    state: dict[str, Any] = dict(network().state_dict())
    if change == "extra":
        state["layer4.0.conv1.weight"] = torch.zeros(2, 2, 3, 3)
    elif change == "missing":
        del state["layer2.1.conv2.weight"]
    elif change == "shape":
        state["layer3.0.bn1.weight"] = torch.zeros(3)
    elif change == "text":
        state["layer1.0.conv1.weight"] = "no tensor"
    elif change == "nan":
        state["fc.weight"] = torch.full_like(state["fc.weight"], float("nan"))
    elif change == "gap":
        state = {k: v for k, v in state.items() if not k.startswith("layer2.1.")}
    return state


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("extra", "layer4.0.conv1.weight"),
        ("missing", "layer2.1.conv2.weight"),
        ("shape", "layer3.0.bn1.weight has [3], not [16]"),
        ("text", "layer1.0.conv1.weight is of type str"),
        ("nan", "fc.weight has values that are not finite"),
        ("gap", "layer2.1."),
    ],
)
def test_a_mismatch_lists_the_keys_that_do_not_fit(tmp_path: Path, change: str, named: str) -> None:
    with pytest.raises(TeacherError) as failure:
        read_teacher(save(tmp_path / "t.pt", broken_state(change)))
    assert named in str(failure.value)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("touched-by-a-pickle"),))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (argparse.Namespace(lr=0.1), "holds a argparse.Namespace, not a state dict, and code is never run"),
        ({"state_dict": Evil()}, "code is never run from an upload: state_dict is of type __builtin__.getattr"),
        ([1, 2], "not a state dict"),
        ({}, "empty"),
        ({"epoch": 3, "optimizer": {"state": {}}}, "epoch is of type int, optimizer is of type dict"),
        ({"encoder.weight": torch.zeros(2, 2)}, "encoder.weight"),
    ],
    ids=["object", "evil", "list", "empty", "no tensors", "other"],
)
def test_files_that_are_no_teacher(tmp_path: Path, content: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TeacherError, match=r".") as failure:
        read_teacher(save(tmp_path / "t.pt", content))
    assert says in str(failure.value)
    assert not Path("touched-by-a-pickle").exists()


def test_torchscript_garbage_and_truncated_files_are_refused(tmp_path: Path) -> None:
    script = tmp_path / "script.pt"
    torch.jit.script(nn.Linear(2, 2)).save(str(script))
    with pytest.raises(TeacherError, match="TorchScript"):
        read_teacher(script)
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"hello, I am no checkpoint")
    with pytest.raises(TeacherError, match="neither safetensors nor"):
        read_teacher(garbage)
    whole = save(tmp_path / "whole.pt", dict(network().state_dict())).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TeacherError, match="cannot be read"):
        read_teacher(tmp_path / "cut.pt")
    save_file(network().state_dict(), tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:2000])
    with pytest.raises(TeacherError, match="cannot be read"):
        read_teacher(tmp_path / "cut.safetensors")
    # The pickle's string claims more bytes than any memory has.
    (tmp_path / "long.pt").write_bytes(b"\x80\x04\x8d" + (2**60).to_bytes(8, "little") + b"x")
    with pytest.raises(TeacherError, match="more than 8388608 bytes beside its weights"):
        read_teacher(tmp_path / "long.pt")


def inspect(file: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    limits = ["--memory", str(2 << 30), "--cpu", "60"]
    command = [sys.executable, "-m", "lit_core.trainer.inspect", str(file), str(folder), *limits, *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_inspection_process_writes_the_teacher_and_refuses_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net = network(2)
    done = inspect(save(tmp_path / "t.pt", {"model": net.state_dict()}), tmp_path)
    assert done.returncode == 0, done.stderr
    inspection = Inspection.model_validate_json((tmp_path / "inspection.json").read_bytes())
    assert inspection.architecture.depth == 14
    written: dict[str, Tensor] = load_file(tmp_path / "teacher.safetensors")
    assert all(torch.equal(written[k], v) for k, v in net.state_dict().items())
    averaged = network(2)
    nn.init.ones_(next(averaged.parameters()))
    both = save(tmp_path / "both.pt", {"model": net.state_dict(), "model_ema": averaged.state_dict()})
    # In this process, which keeps its limits: another one takes seconds to start.
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["inspect", str(both), str(tmp_path), "--weights", "ema"])
    assert inspect_file() == 0
    written = load_file(tmp_path / "teacher.safetensors")
    assert all(torch.equal(written[k], v) for k, v in averaged.state_dict().items())
    bad = save(tmp_path / "bad.pt", {"model": {"a.weight": torch.zeros(1)}})
    monkeypatch.setattr(sys, "argv", ["inspect", str(bad), str(tmp_path)])
    assert inspect_file() == 1
    error = JobError.model_validate(json.loads(capsys.readouterr().out))
    assert error.type == "bad-teacher"
    assert "a.weight" in error.detail


def test_inherited_blocks_begin_with_the_first_and_are_spread() -> None:
    assert evenly(6, 2) == [0, 3]
    assert evenly(6, 6) == [0, 1, 2, 3, 4, 5]
    assert evenly(18, 3) == [0, 6, 12]
    for teacher in range(1, 30):
        for student in range(1, teacher + 1):
            indices = evenly(teacher, student)
            assert indices[0] == 0
            assert len(set(indices)) == student
            assert max(indices) < teacher


def test_an_architecture_of_another_family_is_refused() -> None:
    with pytest.raises(Exception, match="not one of"):
        family_of(Architecture(family="mystery", depth=1, blocks=[1], channels=1, classes=2))


def test_a_teacher_of_one_output_is_refused_with_what_to_do(tmp_path: Path) -> None:
    one = network(classes=1).state_dict()
    save_file(one, tmp_path / "one.safetensors")
    with pytest.raises(TeacherError, match=r"one output.*a row of zeros.*lit_core\.compress"):
        read_teacher(tmp_path / "one.safetensors")
    # What it says makes a teacher of two outputs with the same probabilities.
    two = one | {name: torch.cat([torch.zeros_like(one[name]), one[name]]) for name in ("fc.weight", "fc.bias")}
    save_file(two, tmp_path / "two.safetensors")
    architecture = read_teacher(tmp_path / "two.safetensors").recognised.architecture
    assert architecture.classes == 2
    x = torch.randn(3, 3, 8, 8)
    before, after = network(classes=1).eval(), network(classes=2).eval()
    after.load_state_dict(two)
    assert torch.allclose(after(x).softmax(dim=1)[:, 1], before(x).sigmoid()[:, 0], atol=1e-6)
