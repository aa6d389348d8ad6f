"""A compressed model as a folder: `model.safetensors` and `config.json`, written by a job and read by `load`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lit_core.data import Preprocessing
from lit_core.families import family_of
from lit_core.spec import Architecture
from lit_core.spec import Model as SpecModel

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CONFIG_VERSION = 2


class ModelConfig(SpecModel):
    """Enough to rebuild the network and its preprocessing."""

    config_version: int = CONFIG_VERSION
    architecture: Architecture
    preprocessing: Preprocessing
    """Also names the outputs, in their order."""


class Model(nn.Module):
    """A network with its preprocessing and class names. In eval mode when loaded."""

    def __init__(self, network: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config

    @property
    def classes(self) -> list[str]:
        """Names of the outputs, in their order."""
        return self.config.preprocessing.class_order

    def forward(self, x: Tensor) -> Tensor:
        """Preprocessed input, (B, C, H, W) of images or (B, L) of texts -> logits (B, classes)."""
        logits: Tensor = self.network(x)
        return logits

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
        """The most probable class name of each raw image or text."""
        return [self.classes[index] for index in self(self.preprocess(samples)).argmax(dim=1).tolist()]


def save(network: nn.Module, config: ModelConfig, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n")


def load(folder: str | Path) -> Model:
    """The model in a downloaded folder, on the CPU and in eval mode.

    Raises FileNotFoundError for a missing file and ValueError for one that doesn't fit.
    """
    folder = Path(folder)
    try:
        config = ModelConfig.model_validate_json((folder / CONFIG_FILE).read_bytes())
    except ValidationError as failure:
        raise ValueError(f"{folder / CONFIG_FILE} is no configuration of a compressed model: {failure}") from failure
    if config.config_version != CONFIG_VERSION:
        raise ValueError(f"config_version is {config.config_version}, but this version reads {CONFIG_VERSION}")
    network = family_of(config.architecture).build(config.architecture)
    try:
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except RuntimeError as failure:
        raise ValueError(f"{folder / WEIGHTS_FILE} doesn't fit {CONFIG_FILE}: {failure}") from failure
    return Model(network, config).eval()
