"""The teachers of the evidence: classifiers trained with plain cross entropy, a StarGAN with its own losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from benchmarks.evidence.data import COLOUR_SIDE, COLOURS, HARD
from benchmarks.whole_files import written_whole
from lit_core.data import Dataset, Interface, augment, load_dataset
from lit_core.data.views import SampleViews
from lit_core.measuring.scores import top1
from lit_core.networks.families import family_of
from lit_core.networks.families.stargan import Discriminator, Generator, StarGan
from lit_core.networks.sections import SectionedNetwork
from lit_core.seeding import generator_of
from lit_core.tasks.classification import predict
from lit_core.training.adversarial import AdversarialUpdater
from lit_core.training.batch import Batch
from lit_core.training.steps import learning_rate, rows_of, steps_per_epoch
from lit_core.training.updaters import make_optimizer, minimise
from lit_spec import (
    Adversarial,
    Architecture,
    Augmentation,
    DatasetRequest,
    Modality,
    OneCycle,
    Optimizer,
    Phase,
    PhaseSchedule,
    Schedule,
    Split,
)

DIGITS_TEACHER = Path(__file__).resolve().parents[2] / "examples/digits/teacher.safetensors"
SEED = 0
LENGTH = 256
"""Characters of a text."""


@dataclass(frozen=True)
class Recipe:
    """How one classifier is trained."""

    architecture: Architecture
    dataset: DatasetRequest
    augmentation: Augmentation
    epochs: int
    learning_rate: float = 0.1
    optimizer: Optimizer = Optimizer.SGD


RESNET = Architecture(
    family="resnet_cifar",
    depth=38,
    blocks=[6, 6, 6],
    channels=1,
    classes=10,
    options={"width": 12, "shortcut": "A", "head": "fc", "projection": "downsample"},
)
RESNEXT = Architecture(
    family="resnext_cifar",
    depth=29,
    blocks=[3, 3, 3],
    channels=1,
    classes=10,
    options={
        "cardinality": 4,
        "base_width": 4,
        "width": 32,
        "stem_width": 16,
        "names": "layer",
        "head": "fc",
        "projection": "downsample",
    },
)
# Half as wide as the paper's, for 2,600 short texts on a CPU.
VDCNN = Architecture(
    family="vdcnn",
    modality=Modality.TEXT,
    depth=17,
    blocks=[2, 2, 2, 2],
    channels=None,
    classes=2,
    options={
        "vocabulary_size": 69,
        "embedding_size": 16,
        "stem_width": 32,
        "width_1": 32,
        "width_2": 64,
        "width_3": 128,
        "width_4": 256,
        "k": 8,
        "hidden_1": 256,
        "hidden_2": 256,
        "downsampling": "maxpool",
        "shortcut": True,
        "bias": False,
        "least_length": 64,
    },
)

RECIPES: Mapping[str, Recipe] = {
    "mnist5k": Recipe(RESNET, DatasetRequest(upload="mnist5k"), Augmentation(shift=1), epochs=25),
    "mnist5k-hard": Recipe(RESNET, DatasetRequest(upload="mnist5k-hard", mean=[0.0], std=[1.0]), HARD, epochs=90),
    "resnext": Recipe(RESNEXT, DatasetRequest(upload="mnist5k"), Augmentation(shift=1), epochs=25),
    "vdcnn": Recipe(
        VDCNN,
        DatasetRequest(upload="amazon", length=LENGTH),
        Augmentation(mask=0.1),
        epochs=20,
        learning_rate=0.001,
        optimizer=Optimizer.ADAM,
    ),
}
STARGAN, DISCRIMINATOR = "stargan", "stargan-discriminator"
CONV_DIM, RESIDUAL_BLOCKS, LAYERS = 16, 6, 3
WARM_UP_STEPS, STARGAN_STEPS = 800, 1500


def teacher_file(name: str, folder: Path, data: Callable[[str], Path]) -> Path:
    """A checkpoint, trained if it isn't there yet; `data` gives a data set's file by name."""
    if name == "digits":
        return DIGITS_TEACHER
    file = folder / f"{name}.safetensors"
    if not file.exists():
        torch.set_num_threads(1)
        if name in RECIPES:
            accuracy = train_classifier(RECIPES[name], data, file)
            print(f"teacher {name}: {accuracy:.2f} % of the validation split", flush=True)
        else:
            train_stargan(data("coloured"), folder)
    return file


def train_classifier(recipe: Recipe, data: Callable[[str], Path], file: Path) -> float:
    """Percent of the validation split that the teacher names rightly."""
    path = data(recipe.dataset.upload or "")
    dataset = load_dataset(recipe.dataset, recipe.augmentation, path, Interface.of(recipe.architecture))
    torch.manual_seed(SEED)
    network = family_of(recipe.architecture).build(recipe.architecture)
    rate = recipe.learning_rate
    schedule = Schedule(optimizer=recipe.optimizer)
    optimizer = make_optimizer(network, schedule)
    phase = PhaseSchedule(epochs=recipe.epochs, learning_rate=rate, schedule=OneCycle(kind="one_cycle"))
    arrays = dataset.splits[Split.TRAIN]
    steps = steps_per_epoch(len(arrays.y), schedule)
    for epoch in range(recipe.epochs):
        network.train()
        for step in range(steps):
            rows = rows_of(len(arrays.y), schedule, SEED, Phase.LIT, epoch, step)
            loss = F.cross_entropy(network(_augmented(dataset, rows, epoch)), arrays.y[rows])
            minimise(loss, optimizer, learning_rate(phase, epoch * steps + step, steps))
    _save(network, file)
    return top1(predict(network, dataset, Split.VALIDATION, torch.device("cpu")))


def stargan() -> tuple[Generator, Discriminator]:
    """Untrained, for images (B, 3, 16, 16)."""
    domains = len(COLOURS)
    network = Generator(CONV_DIM, domains, 3, RESIDUAL_BLOCKS, "main", running_statistics=True)
    return network, Discriminator(CONV_DIM, domains, 3, LAYERS, COLOUR_SIDE // 2**LAYERS)


def train_stargan(path: Path, folder: Path) -> None:
    """Generator and discriminator, each from random weights (Choi et al., CVPR 2018).

    The generator first learns to give back what it is given, or it would make the same picture of every digit.
    """
    torch.manual_seed(SEED)
    network, discriminator = stargan()
    architecture = StarGan().read({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})
    # What the generator puts out lies in -1..1, and so must its images.
    request = DatasetRequest(upload="coloured", class_order=list(COLOURS), mean=[0.5] * 3, std=[0.5] * 3)
    dataset = load_dataset(request, Augmentation(), path, Interface.of(architecture))
    schedule = Schedule(
        optimizer=Optimizer.ADAM, adam_betas=[0.5, 0.999], weight_decay=0.0, batch_size=16, steps_per_epoch=1
    )
    arrays, optimizer = dataset.splits[Split.TRAIN], make_optimizer(network, schedule)
    for step in range(WARM_UP_STEPS):
        rows = rows_of(len(arrays.y), schedule, SEED, Phase.LIT, step, 0)
        x = dataset.preprocessing.apply(arrays.x[rows])
        minimise(F.mse_loss(network(x, arrays.y[rows]), x), optimizer, 3e-3)
    updater = AdversarialUpdater(
        SectionedNetwork(network, StarGan().layout(architecture)),
        discriminator,
        Adversarial(n_critic=1),
        schedule,
        frozen=[],
        exclusive=True,
    )
    for step in range(STARGAN_STEPS):
        rows = rows_of(len(arrays.y), schedule, SEED, Phase.FINE_TUNE, step, 0)
        own = arrays.y[rows]
        generator = generator_of(SEED, "targets", step)
        target = own[torch.randperm(len(own), generator=generator)]
        updater.step(Batch((_augmented(dataset, rows, step), target), own, generator=generator), 2e-4)
    _save(discriminator, folder / f"{DISCRIMINATOR}.safetensors")
    _save(network, folder / f"{STARGAN}.safetensors")


def _augmented(dataset: Dataset, rows: torch.Tensor, view: int) -> torch.Tensor:
    x = dataset.preprocessing.apply(dataset.splits[Split.TRAIN].x[rows])
    return augment(x, dataset.augmentation, SampleViews(rows, torch.full_like(rows, view), SEED))


def _save(network: nn.Module, file: Path) -> None:
    with written_whole(file) as part:
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, part)
