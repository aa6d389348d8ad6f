"""Cases of teachers, and what an inspection makes of one."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm

from lit_core.networks.families.resnet_cifar import ResNet
from lit_core.networks.teacher import TeacherError, check_outputs_are_finite, read_teacher
from lit_spec import LibraryRequest, TeacherWeights
from tests.inputs.cases import Case, Outcome, Result

TRAINERS, CONTENT, LIBRARIES = "Files of trainers", "What is in them", "Networks of torchvision and timm"
REFUSED, NOTED = Outcome.REFUSED_ON_ARRIVAL, Outcome.NOTED
State = Mapping[str, Tensor]


def outcome_of(case: Case, folder: Path) -> Result:
    """Make the file and read it as an inspection does. What was done to find the network stands for a note."""
    path = folder / "teacher"
    case.make(path)
    asked = dict(case.request)
    weights = asked.pop("teacher_weights", None)
    request = LibraryRequest.model_validate(asked) if asked else None
    try:
        teacher = read_teacher(path, request, None if weights is None else TeacherWeights(weights))
        check_outputs_are_finite(teacher)
    except TeacherError as failure:
        return Result(REFUSED, str(failure))
    words = "; ".join(teacher.unwrapped)
    return Result(NOTED if words else Outcome.TAKEN, words)


# --- files ------------------------------------------------------------------------------------------------


def network(seed: int = 0, classes: int = 3) -> ResNet:
    torch.manual_seed(seed)
    return ResNet([1, 1, 1], 4, 1, classes, "A", "fc", "downsample")


def states() -> tuple[State, State]:
    return network().state_dict(), network(seed=1).state_dict()


def under(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def saved(content: Callable[[State, State], Any]) -> Callable[[Path], None]:
    """A file of torch.save with what `content` makes of the weights of two networks."""
    return lambda path: torch.save(content(*states()), path)


def with_spectral_norm() -> State:
    made = network()
    spectral_norm(made.layer1[0].conv1)
    made(torch.rand(2, 1, 8, 8))
    return made.state_dict()


def pruned() -> State:
    made = network()
    prune.l1_unstructured(made.layer1[0].conv1, "weight", amount=0.5)
    return made.state_dict()


def resnet18(head: nn.Module | None = None) -> State:
    torch.manual_seed(0)
    made = torchvision.models.resnet18(num_classes=5)
    if head is not None:
        made.fc = head
    return made.state_dict()


def renamed(path: Path) -> None:
    names = {"layer": "stage_", "conv1": "first"}
    torch.save({re.sub("layer|conv1", lambda found: names[found[0]], n): t for n, t in resnet18().items()}, path)


RESNET18 = {"library": "torchvision", "name": "resnet18"}
CASES: tuple[Case, ...] = (
    Case(TRAINERS, "a state dict in a .pt file", saved(lambda raw, _: raw)),
    Case(TRAINERS, "safetensors", lambda path: save_file(dict(states()[0]), path)),
    Case(
        TRAINERS,
        "Lightning, with metrics and a Namespace beside the network",
        saved(
            lambda raw, _: {
                "state_dict": {**under("model.", raw), "metric.confmat": torch.zeros(3, 3)},
                "hyper_parameters": argparse.Namespace(lr=0.1),
                "pytorch-lightning_version": "2.5.1",
            }
        ),
        NOTED,
        "the prefix model. removed from the names",
    ),
    Case(
        TRAINERS,
        "DataParallel or DDP around torch.compile",
        saved(lambda raw, _: {"model": under("module._orig_mod.", raw)}),
        NOTED,
        "the prefix module. removed from the names",
    ),
    Case(
        TRAINERS,
        "a student in a distiller, with its teacher",
        saved(lambda raw, other: {**under("student.", raw), **under("teacher.", other)}),
        REFUSED,
        "networks",
    ),
    Case(
        TRAINERS,
        "raw weights and their average",
        saved(lambda raw, other: {"state_dict": raw, "state_dict_ema": other}),
        NOTED,
        "state_dict",
    ),
    Case(
        TRAINERS,
        'the same, with `teacher_weights: "ema"`',
        saved(lambda raw, other: {"state_dict": raw, "state_dict_ema": other}),
        NOTED,
        "state_dict_ema",
        request={"teacher_weights": "ema"},
    ),
    Case(
        TRAINERS,
        "an average alone",
        saved(lambda raw, _: {"state_dict_ema": raw}),
        NOTED,
        "state_dict_ema",
    ),
    Case(
        TRAINERS,
        'raw weights alone, with `teacher_weights: "ema"`',
        saved(lambda raw, _: raw),
        REFUSED,
        "ema",
        request={"teacher_weights": "ema"},
    ),
    Case(TRAINERS, "a module that was pickled whole", lambda path: torch.save(network(), path), NOTED, "module"),
    Case(CONTENT, "spectral norm", lambda path: torch.save(with_spectral_norm(), path), NOTED, "spectral"),
    Case(CONTENT, "pruning masks", lambda path: torch.save(pruned(), path), NOTED, "mask"),
    Case(
        CONTENT,
        "half precision",
        saved(lambda raw, _: {n: t.half() if t.is_floating_point() else t for n, t in raw.items()}),
    ),
    Case(
        CONTENT,
        "integers as weights",
        saved(lambda raw, _: {n: (t * 9).to(torch.int8) if t.ndim == 4 else t for n, t in raw.items()}),
        REFUSED,
        "int8",
    ),
    Case(
        CONTENT,
        "weights that make NaN",
        saved(lambda raw, _: {**raw, "fc.weight": torch.full_like(raw["fc.weight"], torch.nan)}),
        REFUSED,
        "finite",
    ),
    Case(CONTENT, "one output", lambda path: torch.save(network(classes=1).state_dict(), path), REFUSED, "one output"),
    Case(CONTENT, "no tensors", lambda path: torch.save({"epoch": 3}, path), REFUSED, "no tensors"),
    Case(CONTENT, "an empty state dict", lambda path: torch.save({}, path), REFUSED, "empty"),
    Case(
        LIBRARIES,
        "without its name",
        lambda path: torch.save(resnet18(), path),
        REFUSED,
        "give the one that it is as architecture",
    ),
    Case(LIBRARIES, "with `architecture`", lambda path: torch.save(resnet18(), path), request=RESNET18),
    Case(
        LIBRARIES,
        "a new linear head behind dropout",
        lambda path: torch.save(resnet18(nn.Sequential(nn.Dropout(), nn.Linear(512, 7))), path),
        NOTED,
        "fc",
        request=RESNET18,
    ),
    Case(
        LIBRARIES,
        "a head of two layers",
        lambda path: torch.save(resnet18(nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 7))), path),
        REFUSED,
        "but for its head",
        request=RESNET18,
    ),
    Case(
        LIBRARIES,
        "the same layers under other names",
        renamed,
        REFUSED,
        "by_order",
        request=RESNET18,
    ),
    Case(
        LIBRARIES,
        'the same, with `"rename": "by_order"`',
        renamed,
        NOTED,
        "order",
        request={**RESNET18, "rename": "by_order"},
    ),
)
