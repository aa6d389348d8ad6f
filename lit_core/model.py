"""A compressed model as a folder: `model.safetensors` and `config.json`, written by a job or by `Compressed.save`, and
read by `load`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

import torch
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lit_core.data import ImagePreprocessing, Preprocessing
from lit_core.data.metadata import metadata_of
from lit_core.data.samples import Samples, listed, opened
from lit_core.measuring.scores import class_logits
from lit_core.networks.families import family_of
from lit_core.networks.state_dicts import load_state
from lit_spec import Architecture, SpecModel, Task
from lit_spec.networks.teacher_files import ARCHITECTURE_KEY
from lit_spec.trainer.folder import CONFIG_FILE, WEIGHTS_FILE

CONFIG_VERSION = 2
PROGRAM_FAMILY = "program"
"""Of a network that no code here can build: the folder has it as a program of torch.export."""
PROGRAM_FILE = "model.pt2"
HEADER_SIZE_BYTES = 8
"""Of safetensors: the length of the JSON that follows, little-endian."""
AT_ONCE = 64
"""Samples that are opened and classified together."""


class ModelConfig(SpecModel):
    """Enough to rebuild the network and its preprocessing."""

    config_version: int = CONFIG_VERSION
    architecture: Architecture
    preprocessing: Preprocessing
    """With the names of the outputs, in their order."""

    @property
    def metadata(self) -> dict[str, str]:
        """For the files of the model."""
        return metadata_of(self.architecture.task, self.preprocessing)


class ClassProbability(NamedTuple):
    name: str
    probability: float
    """From 0 to 1."""


class Model(nn.Module):
    """A network with its preprocessing and the names of its classes or domains. `load` returns it in eval mode."""

    def __init__(self, network: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config

    @property
    def classes(self) -> list[str]:
        """Names of a classifier's outputs, or of a generator's domains, in their order."""
        return self.config.preprocessing.class_order

    def forward(self, *inputs: Tensor) -> Tensor:
        """Preprocessed input, (B, C, H, W) of images or (B, L) of texts -> logits (B, classes).

        Of a generator: images (B, C, H, W) and target domains (B, domains) -> images (B, C, H, W) in -1..1.
        """
        output: Tensor = self.network(*inputs)
        return output

    def preprocess(self, samples: Samples) -> Tensor:
        """Raw samples, one or several -> the network's input, as in training.

        A tensor is a raw batch of the data set's own type and size, (B, C, H, W) or (B, L), or one sample of it. Image
        files (by their paths), PIL images and arrays are converted, cropped and resized. A folder's path stands for the
        image files in it, in the order of their names. A model of texts takes strings. Raises ValueError for anything
        else, and FileNotFoundError.
        """
        return self._preprocessed(listed(samples, self.config.preprocessing))

    @overload
    def classify(self, samples: Samples) -> list[str]: ...

    @overload
    def classify(self, samples: Samples, top: int) -> list[list[ClassProbability]]: ...

    @torch.no_grad()
    def classify(self, samples: Samples, top: int | None = None) -> list[str] | list[list[ClassProbability]]:
        """The most probable class name of each sample; with `top`, that many classes of each sample with their
        probabilities, the most probable first.

        `samples` is what `preprocess` takes, and the answer is a list also for one sample. Raises ValueError for a
        generator, and what `preprocess` raises.
        """
        self._check_task(Task.CLASSIFICATION, "translate(images, domain)")
        if top is not None and top < 1:
            raise ValueError(f"top is {top}: give the number of classes to name, 1 or more")
        found = [
            row
            for part in self._parts(samples)
            for row in class_logits(self(self._preprocessed(part)).float()).softmax(dim=1).cpu()
        ]
        if top is None:
            return [self.classes[int(row.argmax())] for row in found]
        return [self._most_probable(row, top) for row in found]

    def _most_probable(self, row: Tensor, top: int) -> list[ClassProbability]:
        order = row.sort(descending=True, stable=True).indices[:top].tolist()
        return [ClassProbability(self.classes[index], float(row[index])) for index in order]

    def _parts(self, samples: Samples) -> Iterator[Tensor | Sequence[Any]]:
        """Few samples at a time, because a folder's images may not fit into memory together."""
        every = listed(samples, self.config.preprocessing)
        for start in range(0, len(every), AT_ONCE):
            yield every[start : start + AT_ONCE]

    def _preprocessed(self, samples: Tensor | Sequence[Any]) -> Tensor:
        """Of a result of `listed`."""
        preprocessing = self.config.preprocessing
        if isinstance(samples, Tensor):
            raw = samples
        elif preprocessing.kind == "text":
            raw = preprocessing.from_texts(samples)
        else:
            raw = torch.cat([preprocessing.from_image(opened(sample)) for sample in samples])
        return preprocessing.apply(raw.to(next(self.parameters()).device))

    @torch.no_grad()
    def translate(self, images: Samples, domain: str | Sequence[str]) -> list[Image.Image]:
        """Each raw image in another domain: in the one named, or with all attributes named and no other.

        The pictures have the size that the network was trained on. Raises ValueError for an unknown domain, for a
        classifier, and where images are neither grey nor RGB.
        """
        self._check_task(Task.TRANSLATION, "classify(samples)")
        x = self.preprocess(images)
        target = self._domains(domain).to(x.device).expand(len(x), -1)
        return self._image_preprocessing().to_images(self(x, target))

    def _domains(self, domain: str | Sequence[str]) -> Tensor:
        named = {domain} if isinstance(domain, str) else set(domain)
        unknown = sorted(named - set(self.classes))
        if unknown:
            raise ValueError(f"there is no domain {unknown[0]!r}: the domains are {', '.join(self.classes)}")
        return torch.tensor([[float(name in named) for name in self.classes]])

    def _image_preprocessing(self) -> ImagePreprocessing:
        preprocessing = self.config.preprocessing
        if not isinstance(preprocessing, ImagePreprocessing):
            raise ValueError("config.json has no image preprocessing")
        return preprocessing

    def _check_task(self, task: Task, instead: str) -> None:
        found = self.config.architecture.task
        if found != task:
            raise ValueError(f"the model is for {found}, not for {task}: use {instead}")


class Program(nn.Module):
    """A program of torch.export as a module. It has no training mode."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.module = torch.export.load(path).module()

    def forward(self, *inputs: Tensor) -> Tensor:
        output: Tensor = self.module(*inputs)
        return output

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002 - torch's modules of programs refuse both modes
        return self


def save(network: nn.Module, config: ModelConfig, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    is_program = config.architecture.family == PROGRAM_FAMILY
    save_weights(network, folder / WEIGHTS_FILE, None if is_program else config.architecture, config.metadata)
    (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n")


def save_weights(
    network: nn.Module,
    path: Path,
    architecture: Architecture | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the network's tensors, and with them the metadata, and its architecture, by which the file alone can be a
    teacher again."""
    # Copies, because safetensors refuses tensors that share memory, as those of modules that are used twice do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    told = {} if architecture is None else {ARCHITECTURE_KEY: architecture.model_dump_json()}
    entries = {**told, **(metadata or {})}
    save_file(tensors, path, entries or None)
    if entries:
        _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """safetensors writes the entries in any order, and the same run shall make the same bytes."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(HEADER_SIZE_BYTES), "little")
        header = json.loads(file.read(size))
        entries = header.pop("__metadata__")
        ordered = {"__metadata__": dict(sorted(entries.items())), **header}
        text = json.dumps(ordered, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > size:
            raise ValueError(f"the header of {path} has {len(text)} bytes, but there is room for {size}")
        file.seek(HEADER_SIZE_BYTES)
        # The format pads headers with spaces.
        file.write(text.ljust(size))


def load(folder: str | Path, weights: str = WEIGHTS_FILE) -> Model:
    """The model in a downloaded folder, on the CPU and in eval mode.

    `weights` names another file of the folder, such as the result of a pruning (`model.prune-0.5.safetensors`).
    A network that only its own code can build is read from `model.pt2`; load such a folder only if you trust its
    source. Raises FileNotFoundError for a missing file and ValueError for one that doesn't fit.
    """
    folder = Path(folder)
    try:
        config = ModelConfig.model_validate_json((folder / CONFIG_FILE).read_bytes())
    except ValidationError as failure:
        raise ValueError(f"{folder / CONFIG_FILE} is not a configuration of a compressed model: {failure}") from failure
    if config.config_version != CONFIG_VERSION:
        raise ValueError(f"config_version is {config.config_version}, but this version reads {CONFIG_VERSION}")
    if config.architecture.family == PROGRAM_FAMILY:
        if weights != WEIGHTS_FILE:
            raise ValueError(f"the model is a program, {PROGRAM_FILE}, which has its own weights: leave weights out")
        return Model(Program(folder / PROGRAM_FILE), config).eval()
    # Weights are drawn before those of the file replace them. The caller's random numbers shall not depend on that.
    with torch.random.fork_rng(devices=[]):
        network = family_of(config.architecture).build(config.architecture)
    try:
        load_state(network, load_file(folder / weights))
    except SafetensorError as failure:
        raise ValueError(f"{folder / weights} is not a safetensors file: {failure}") from failure
    except RuntimeError as failure:
        raise ValueError(f"{folder / weights} doesn't fit {CONFIG_FILE}: {failure}") from failure
    return Model(network, config).eval()
