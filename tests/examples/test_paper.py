"""examples/paper: each file is a request, fits the teacher that its name tells of, and is told how to run."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from lit_client.command.job_request import build_body, check_body
from lit_core.networks.families import recognise
from lit_core.networks.families.resnet_cifar import ResNet
from lit_core.networks.teacher import Teacher, inspect_teacher
from lit_spec import Feed, Init, Inspection, JobRequest, Preset, resolve

PAPER = Path(__file__).parents[2] / "examples" / "paper"
FILES = sorted(PAPER.glob("*.json"))
RESNETS = [path for path in FILES if path.stem.startswith("resnet-")]
CLASSES = {"cifar10": 10, "cifar100": 100}


def read(path: Path) -> JobRequest:
    """As `litc compress --request` reads it, before the uploads."""
    return check_body(build_body(path, {}, []))


@cache
def teacher(depth: int, classes: int) -> Inspection:
    """What an inspection finds in a CIFAR ResNet; built without memory."""
    with torch.device("meta"):
        state = ResNet([(depth - 2) // 6] * 3, 16, 3, classes, "A", "fc", "downsample").state_dict()
    found = recognise({name: tuple(tensor.shape) for name, tensor in state.items()})
    return inspect_teacher(Teacher("safetensors", state, found))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_is_a_request_of_the_paper_s_preset(path: Path) -> None:
    request = read(path)
    family, _, student, data = path.stem.split("-", 3)
    assert request.preset == Preset.PAPER
    assert request.name == f"paper: {path.stem}"
    assert (request.student.depth or sum(request.student.blocks or [])) == int(student)
    assert request.dataset.mounted == (None if family == "vdcnn" else data)


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.stem.startswith("resnet-")], ids=lambda path: path.stem
)
def test_resnets_resolve_to_the_paper_s_hyperparameters(path: Path) -> None:
    _, depth, student, data = path.stem.split("-", 3)
    spec = resolve(read(path), teacher(int(depth), CLASSES[data]))
    assert spec.student.blocks == [(int(student) - 2) // 6] * 3
    assert spec.student.init == Init.RANDOM
    assert (spec.alpha, spec.beta, spec.tau, spec.feed) == (0.95, 0.75, 6, Feed.TEACHER)
    assert (spec.schedule.lit.epochs, spec.schedule.fine_tune.epochs, spec.schedule.batch_size) == (175, 125, 32)
    assert spec.augmentation is not None
    assert (spec.augmentation.shift, spec.augmentation.flip) == (4, True)


@pytest.mark.parametrize("words", [["method=kd"], ["feed=student"], ["method=at"], ["method=scratch"]])
def test_the_other_columns_are_one_word_away(words: list[str]) -> None:
    body = build_body(PAPER / "resnet-110-20-cifar10.json", {}, words)
    resolve(check_body(body), teacher(110, 10))


@pytest.mark.parametrize("method", ["born-again-kd", "born-again-lit"])
def test_born_again_networks_keep_the_depth(method: str) -> None:
    body = build_body(PAPER / "resnet-110-20-cifar10.json", {}, [f"method={method}", "student={}"])
    assert resolve(check_body(body), teacher(110, 10)).student.depth == 110


def test_files_are_plain_json() -> None:
    assert len(FILES) >= 16
    for path in FILES:
        assert set(json.loads(path.read_text())) <= set(JobRequest.model_fields) - {"teacher"}
