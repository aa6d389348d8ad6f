"""What an exported file says about its network, so that it can be used without config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version

from lit_core.model import ModelConfig

Metadata = Mapping[str, str]
"""By key; each value is JSON."""

LAYOUTS = {"image": "NCHW", "text": "NL"}
"""Axes of the input: samples, channels, height, width; or samples, characters."""


def metadata_of(config: ModelConfig) -> Metadata:
    """`lit.version`, `lit.task`, `lit.classes`, `lit.layout`, and each value of the preprocessing under its name in
    config.json: of images `lit.size`, `lit.channels`, `lit.scale`, `lit.mean`, `lit.std` and others."""
    preprocessing = config.preprocessing
    values = {
        "version": version("lit-compress"),
        "task": config.architecture.task.value,
        "classes": preprocessing.class_order,
        "layout": LAYOUTS[preprocessing.kind],
        **preprocessing.model_dump(mode="json", exclude={"kind", "class_order"}),
    }
    return {f"lit.{name}": json.dumps(value, ensure_ascii=False) for name, value in values.items()}
