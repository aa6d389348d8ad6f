"""The picture of a plan: what its students keep over their latency, and the damage of leaving out each block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lit_spec import Split
from lit_spec.trainer.plan import PlannedStudent, PlanReport
from lit_spec.trainer.report import Measures

GREY, BLUE = "#8c8c8c", "#1f77b4"


def write_picture(report: PlanReport, file: Path) -> None:
    """As SVG. The file has no date and no random names, so that the same plan makes the same picture."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "plan"}):
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        students, damages = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_students(students, report)
        _draw_damages(damages, report)
        figure.savefig(file, format="svg", metadata={"Date": None})


def _draw_students(axes: Any, report: PlanReport) -> None:
    def draw(label: str, color: str, scores: list[tuple[PlannedStudent, Measures | None]]) -> None:
        points = [
            (student.latency_ms, value)
            for student, measures in scores
            if measures is not None and (value := measures.score(report.metric, Split.VALIDATION)) is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", color=color, label=label)

    draw("untrained", GREY, [(student, student.untrained) for student in report.students])
    draw("repaired", BLUE, [(student, student.repaired) for student in report.students])
    for student in report.students:
        best = student.best(report.metric)
        if best is None:
            continue
        place = (student.latency_ms, best)
        label = f"{sum(student.blocks)} blocks\n{student.file_size / 1e6:.3g} MB"
        axes.annotate(label, place, xytext=(0, 7), textcoords="offset points", ha="center", fontsize=7)
    teacher = report.teacher.scores.score(report.metric, Split.VALIDATION)
    if teacher is not None:
        label = f"teacher, {sum(report.teacher.blocks)} blocks, {report.teacher.file_size / 1e6:.3g} MB"
        axes.plot([report.teacher.latency_ms], [teacher], marker="*", markersize=12, color="black", ls="", label=label)
    samples = f"{report.samples[Split.VALIDATION]:,} validation samples"
    unit = "agreement with the teacher" if report.metric == "agreement" else report.metric
    axes.set(
        title="Students before any training",
        xlabel=f"expected latency at batch {report.plan.batch}, ms ({report.environment.get('device', '')})",
        ylabel=f"{unit}, % of {samples}",
    )
    axes.margins(0.08, 0.15)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def _draw_damages(axes: Any, report: PlanReport) -> None:
    """A bar for each block; one that must stay has none."""
    start, places, names = 0, [], []
    for section, damages in enumerate(report.damages):
        bars = [(start + index, value) for index, value in enumerate(damages) if value is not None]
        axes.bar([place for place, _ in bars], [value for _, value in bars], color=f"C{section % 10}")
        places.append(start + (len(damages) - 1) / 2)
        names.append(str(section))
        start += len(damages) + 1
    axes.set_xticks(places, names)
    axes.set(title="Damage of leaving out one block", xlabel="section and its blocks", ylabel="KL divergence, nats")
    axes.grid(alpha=0.3, axis="y")
