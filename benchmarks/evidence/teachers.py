"""The teachers of the evidence, trained with plain cross entropy on the training split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from benchmarks.evidence.data import HARD
from lit_core.data import Dataset, Interface, augment, load_dataset
from lit_core.families import family_of
from lit_core.learning_rate import learning_rate
from lit_core.sampling import generator_of, rows_of, steps_per_epoch
from lit_core.scores import top1
from lit_core.spec import Architecture, Augmentation, DatasetRequest, OneCycle, Phase, PhaseSchedule, Schedule, Split
from lit_core.tasks.classification import predict

DIGITS_TEACHER = Path(__file__).resolve().parents[2] / "examples/digits/teacher.safetensors"
SEED = 0


def _resnet(depth: int, width: int) -> Architecture:
    return Architecture(
        family="resnet_cifar",
        depth=depth,
        blocks=[(depth - 2) // 6] * 3,
        channels=1,
        classes=10,
        options={"width": width, "shortcut": "A", "head": "fc", "projection": "downsample"},
    )


@dataclass(frozen=True)
class Recipe:
    """How one teacher is trained."""

    architecture: Architecture
    dataset: DatasetRequest
    augmentation: Augmentation
    epochs: int
    learning_rate: float = 0.1


RECIPES: Mapping[str, Recipe] = {
    "mnist5k": Recipe(_resnet(38, 12), DatasetRequest(upload="mnist5k"), Augmentation(shift=1), epochs=25),
    "mnist5k-hard": Recipe(
        _resnet(38, 12), DatasetRequest(upload="mnist5k-hard", mean=[0.0], std=[1.0]), HARD, epochs=60
    ),
}


def teacher_file(name: str, folder: Path, data: Callable[[str], Path]) -> Path:
    """The teacher's checkpoint, trained if it isn't there yet; `data` gives a data set's file by name."""
    if name == "digits":
        return DIGITS_TEACHER
    file = folder / f"{name}.safetensors"
    if not file.exists():
        recipe = RECIPES[name]
        path = data(recipe.dataset.upload or "")
        dataset = load_dataset(recipe.dataset, recipe.augmentation, path, Interface.of(recipe.architecture))
        accuracy = train_teacher(recipe, dataset, file)
        print(f"teacher {name}: {accuracy:.2f} % of the validation split", flush=True)
    return file


def train_teacher(recipe: Recipe, dataset: Dataset, file: Path) -> float:
    """Percent of the validation split that the teacher names rightly."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    network = family_of(recipe.architecture).build(recipe.architecture)
    rate = recipe.learning_rate
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    phase = PhaseSchedule(epochs=recipe.epochs, learning_rate=rate, schedule=OneCycle(kind="one_cycle"))
    arrays, schedule = dataset.splits[Split.TRAIN], Schedule()
    steps = steps_per_epoch(len(arrays.y), schedule)
    for epoch in range(recipe.epochs):
        network.train()
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = learning_rate(phase, epoch * steps + step, steps)
            rows = rows_of(len(arrays.y), schedule, SEED, Phase.LIT, epoch, step)
            x = dataset.preprocessing.apply(arrays.x[rows])
            x = augment(x, dataset.augmentation, generator_of(SEED, "teacher", epoch, step))
            optimizer.zero_grad()
            F.cross_entropy(network(x), arrays.y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    accuracy = top1(predict(network, dataset, Split.VALIDATION, torch.device("cpu")))
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, temporary)
    temporary.rename(file)
    return accuracy
