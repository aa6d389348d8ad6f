"""What a model's files say about their network, so that they can be used without config.json."""

from __future__ import annotations

import json
from importlib.metadata import version

from lit_core.data.dataset import Preprocessing
from lit_spec import Task

LAYOUTS = {"image": "NCHW", "text": "NL"}
"""Axes of the input: samples, channels, height, width; or samples, characters."""


def metadata_of(task: Task, preprocessing: Preprocessing) -> dict[str, str]:
    """JSON by key: `lit.version`, `lit.task`, `lit.classes`, `lit.layout`, and each value of the preprocessing by its
    name in config.json: of images `lit.size`, `lit.channels`, `lit.scale`, `lit.mean`, `lit.std` and others."""
    values = {
        "version": version("lit-compress"),
        "task": task.value,
        "classes": preprocessing.class_order,
        "layout": LAYOUTS[preprocessing.kind],
        **preprocessing.model_dump(mode="json", exclude={"kind", "class_order"}),
    }
    # Escaped, because class names may have characters that some formats can't hold.
    return {f"lit.{name}": json.dumps(value) for name, value in values.items()}
