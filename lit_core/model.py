"""A compressed model as a folder: `model.safetensors` and `config.json`, written by a job and read by `load`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lit_core.data import ImagePreprocessing, Preprocessing
from lit_core.networks.families import family_of
from lit_core.networks.state_dicts import load_state
from lit_spec import Architecture, SpecModel, Task
from lit_spec.networks.teacher_files import ARCHITECTURE_KEY
from lit_spec.trainer.folder import CONFIG_FILE, WEIGHTS_FILE

CONFIG_VERSION = 2


class ModelConfig(SpecModel):
    """Enough to rebuild the network and its preprocessing."""

    config_version: int = CONFIG_VERSION
    architecture: Architecture
    preprocessing: Preprocessing
    """With the names of the outputs, in their order."""


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

    def preprocess(self, samples: Tensor | Sequence[Any]) -> Tensor:
        """Raw samples -> the network's input, as in training.

        `samples` is a raw batch of the data set's own type and size, (B, C, H, W) or (B, L); or a sequence of PIL
        images and arrays, which are converted, cropped and resized; or a sequence of texts.
        """
        preprocessing = self.config.preprocessing
        if isinstance(samples, Tensor):
            raw = samples
        elif preprocessing.kind == "text":
            raw = preprocessing.from_texts(samples)
        else:
            raw = torch.cat([preprocessing.from_image(image) for image in samples])
        return preprocessing.apply(raw.to(next(self.parameters()).device))

    @torch.no_grad()
    def classify(self, samples: Tensor | Sequence[Any]) -> list[str]:
        """The most probable class name of each raw image or text. Raises ValueError for a generator."""
        self._check_task(Task.CLASSIFICATION, "translate(images, domain)")
        return [self.classes[index] for index in self(self.preprocess(samples)).argmax(dim=1).tolist()]

    @torch.no_grad()
    def translate(self, images: Tensor | Sequence[Any], domain: str | Sequence[str]) -> list[Image.Image]:
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


def save(network: nn.Module, config: ModelConfig, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(network, folder / WEIGHTS_FILE, config.architecture)
    (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n")


def save_weights(network: nn.Module, path: Path, architecture: Architecture | None = None) -> None:
    """Write the network's tensors, and with them its architecture, by which the file alone can be a teacher again."""
    # Copies, because safetensors refuses tensors that share memory, as those of modules that are used twice do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    # A single entry, because safetensors writes several in any order, and the same run shall make the same bytes.
    save_file(tensors, path, None if architecture is None else {ARCHITECTURE_KEY: architecture.model_dump_json()})


def load(folder: str | Path, weights: str = WEIGHTS_FILE) -> Model:
    """The model in a downloaded folder, on the CPU and in eval mode.

    `weights` names another file of the folder, such as the result of a pruning (`model.prune-0.5.safetensors`).
    Raises FileNotFoundError for a missing file and ValueError for one that doesn't fit.
    """
    folder = Path(folder)
    try:
        config = ModelConfig.model_validate_json((folder / CONFIG_FILE).read_bytes())
    except ValidationError as failure:
        raise ValueError(f"{folder / CONFIG_FILE} is not a configuration of a compressed model: {failure}") from failure
    if config.config_version != CONFIG_VERSION:
        raise ValueError(f"config_version is {config.config_version}, but this version reads {CONFIG_VERSION}")
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
