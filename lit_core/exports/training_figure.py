"""The course of a training as a picture."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lit_spec.trainer.report import EpochReport

SECTION_LOSS = re.compile(r"ir_loss_\d+")
TEACHER = "teacher_accuracy"


class TrainingFigure(Figure):
    """A figure that notebooks show, also without pyplot, which keeps figures and looks for a display."""

    def as_png(self) -> bytes:
        written = io.BytesIO()
        # Without the software's version, so that the same training makes the same file.
        self.savefig(written, format="png", dpi=100, metadata={"Software": None})
        return written.getvalue()

    def _repr_png_(self) -> bytes:
        return self.as_png()


def training_figure(epochs: Sequence[EpochReport]) -> TrainingFigure:
    """The losses, the IR loss of each section and the validation scores over the epochs of all phases; what the
    training doesn't have is left out. The teacher's accuracy is a dashed line."""
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch.metrics))
    panels = [
        ("training", "loss", [name for name in names if name == "loss" or name.endswith("_loss")]),
        ("IR loss of each section", "loss", [name for name in names if SECTION_LOSS.fullmatch(name)]),
        ("validation", "percent", [name for name in names if name == "agreement" or name.endswith("_accuracy")]),
        ("validation", "cosine", [name for name in names if name == "cosine"]),
    ]
    drawn = [panel for panel in panels if panel[2]] or panels[:1]
    figure = TrainingFigure(figsize=(5 * len(drawn), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, unit, metrics) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        for name in metrics:
            _draw(axes, name, epochs)
        axes.set(title=title, xlabel="epoch", ylabel=unit)
        axes.xaxis.get_major_locator().set_params(integer=True)
        for place in _phase_ends(epochs):
            axes.axvline(place, color="grey", linestyle=":")
        if axes.lines:
            axes.legend()
    return figure


def _phase_ends(epochs: Sequence[EpochReport]) -> list[float]:
    """Places between the epochs of two phases, whose losses are different."""
    return [place + 0.5 for place, (one, next_) in enumerate(pairwise(epochs), 1) if one.phase != next_.phase]


def _draw(axes: Any, name: str, epochs: Sequence[EpochReport]) -> None:
    """Some metrics exist in one phase only."""
    points = [(place, epoch.metrics[name]) for place, epoch in enumerate(epochs, start=1) if name in epoch.metrics]
    style = {"linestyle": "--", "color": "black"} if name == TEACHER else {"marker": "."}
    axes.plot(*zip(*points, strict=True), label=name, **style)
