"""The plots of evidence.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.evidence.page import BUDGETS, Run

mpl.use("svg")
from matplotlib import pyplot as plt

# The same numbers give the same file.
mpl.rcParams["svg.hashsalt"] = "evidence"
ACCURACY, IR_LOSS = ("student_accuracy", "agreement"), ("ir_loss",)
POINTS_BELOW = 3
"""Shown below the worst end of a curve; the first epochs lie far down."""
CURVES = (
    (ACCURACY, "validation accuracy (or agreement), %"),
    (("psnr",), "validation PSNR, dB"),
    (IR_LOSS, "IR loss"),
)
"""Metrics, the first of them that a run has, and what their plot shows."""


def draw(runs: Sequence[Run], folder: Path) -> None:
    """Learning curves of each experiment, and accuracy against budget, as SVG."""
    folder.mkdir(exist_ok=True)
    for name in dict.fromkeys(run["experiment"] for run in runs):
        if not name.startswith(BUDGETS):
            _plot_curves([run for run in runs if run["experiment"] == name], folder / f"{name}.svg")
    budgets = [run for run in runs if run["experiment"].startswith(BUDGETS)]
    if budgets:
        _plot_budgets(budgets, folder / "budgets.svg")


def _plot_curves(runs: Sequence[Run], file: Path) -> None:
    """What was measured by epoch, the mean over seeds."""
    shown = [(names, label) for names, label in CURVES if any(name in runs[0]["curve"] for name in names)]
    figure, grid = plt.subplots(1, len(shown), figsize=(7 * len(shown), 4), squeeze=False)
    for axes, (names, label) in zip(grid[0], shown, strict=True):
        for arm in dict.fromkeys(run["arm"] for run in runs):
            curves = [_first(run["curve"], names) for run in runs if run["arm"] == arm]
            means = [statistics.mean(values) for values in zip(*curves, strict=True)]
            axes.plot(range(1, len(means) + 1), means, marker="o", markersize=3, label=arm)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        if names == IR_LOSS:
            axes.set_yscale("log")
        if names == ACCURACY:
            axes.set_ylim(bottom=min(line.get_ydata()[-1] for line in axes.get_lines()) - POINTS_BELOW)
    _save(figure, grid[0], file)


def _first(curve: Mapping[str, Sequence[float]], names: Sequence[str]) -> Sequence[float]:
    return next((curve[name] for name in names if name in curve), [])


def _plot_budgets(runs: Sequence[Run], file: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4))
    for arm in dict.fromkeys(run["arm"] for run in runs):
        found = _by_budget(run for run in runs if run["arm"] == arm)
        means = [statistics.mean(values) for values in found.values()]
        errors = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in found.values()]
        axes.errorbar(list(found), means, yerr=errors, marker="o", capsize=3, label=arm)
    axes.axhline(runs[0]["teacher_accuracy"], color="grey", linestyle="--", label="teacher")
    axes.set_xscale("log", base=2)
    ticks = sorted({int(run["experiment"].removeprefix(BUDGETS)) for run in runs})
    axes.set_xticks(ticks, [f"{steps:,}" for steps in ticks])
    axes.set_xlabel("steps of 32")
    axes.set_ylabel("test accuracy, %")
    _save(figure, [axes], file)


def _by_budget(runs: Iterable[Run]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for run in runs:
        found.setdefault(int(run["experiment"].removeprefix(BUDGETS)), []).append(run["accuracy"])
    return dict(sorted(found.items()))


def _save(figure: Any, all_axes: Iterable[Any], file: Path) -> None:
    for axes in all_axes:
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
