"""What has been run, in one JSON file, and the table that it makes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.imagenet.arms import Arm, Kept
from benchmarks.practise import Block, Candidate
from benchmarks.whole_files import written_whole
from jobs.studies.kinds.statistics import describe


class OtherSettings(Exception):
    """The file has results that were made with other settings."""


@dataclass(frozen=True)
class Teacher:
    top1: float
    top5: float
    reductions: dict[Block, float]
    """Of the latency, by block, in percent."""


@dataclass(frozen=True)
class Ranking:
    """PRACTISE's candidates. Students with two and with three blocks fewer are chosen from the same ones."""

    network: str
    samples: int
    seed: int
    candidates: list[Candidate]


@dataclass(frozen=True)
class Run:
    network: str
    drop: int
    samples: int
    seed: int
    arm: Arm
    rate: float | None
    """The learning rate, if the arm is run at several."""
    kept: Kept
    top1: float
    """Percent of the validation images."""
    top5: float
    latency_ratio: float
    """How many times the teacher's latency is the student's."""
    seconds: float
    device: str


@dataclass
class Results:
    """Everything is written to the file as soon as it is there, so that a stopped run goes on."""

    file: Path
    settings: dict[str, Any]
    teachers: dict[str, Teacher] = field(default_factory=dict)
    rankings: list[Ranking] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    @classmethod
    def open(cls, file: Path, settings: dict[str, Any]) -> Results:
        """Raises OtherSettings."""
        if not file.exists():
            return cls(file, settings)
        stored = json.loads(file.read_text())
        for name, value in settings.items():
            if stored["settings"].get(name) != value:
                raise OtherSettings(
                    f"{file} was made with {name} {stored['settings'].get(name)}, not {value}: give another file with "
                    "--results"
                )
        return cls(
            file,
            settings,
            {
                name: Teacher(one["top1"], one["top5"], {(n, b): share for n, b, share in one["reductions"]})
                for name, one in stored["teachers"].items()
            },
            [
                Ranking(**{**one, "candidates": [Candidate(**c) for c in one["candidates"]]})
                for one in stored["rankings"]
            ],
            [Run(**{**one, "arm": Arm(one["arm"])}) for one in stored["runs"]],
        )

    def add_teacher(self, network: str, teacher: Teacher) -> None:
        self.teachers[network] = teacher
        self._write()

    def add_ranking(self, ranking: Ranking) -> None:
        self.rankings.append(ranking)
        self._write()

    def add_run(self, run: Run) -> None:
        self.runs.append(run)
        self._write()

    def ranking(self, network: str, samples: int, seed: int) -> list[Candidate] | None:
        key = (network, samples, seed)
        return next((one.candidates for one in self.rankings if (one.network, one.samples, one.seed) == key), None)

    def run(self, network: str, drop: int, samples: int, seed: int, arm: Arm, rate: float | None = None) -> Run | None:
        key = (network, drop, samples, seed, arm, rate)
        return next(
            (one for one in self.runs if (one.network, one.drop, one.samples, one.seed, one.arm, one.rate) == key), None
        )

    def latency_ratio(self, network: str, kept: Kept) -> float | None:
        """As it was measured of an earlier student with the same blocks."""
        return next((one.latency_ratio for one in self.runs if (one.network, one.kept) == (network, kept)), None)

    def _write(self) -> None:
        teachers = {
            name: {**asdict(one), "reductions": [[*block, share] for block, share in one.reductions.items()]}
            for name, one in self.teachers.items()
        }
        content = {
            "settings": self.settings,
            "teachers": teachers,
            "rankings": [asdict(one) for one in self.rankings],
            "runs": [asdict(one) for one in self.runs],
        }
        with written_whole(self.file) as file:
            file.write_text(json.dumps(content, indent=1) + "\n")


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each arm of each cell over its seeds. KD is shown at its best rate, judged by the validation images, which
    flatters it."""
    return [
        _summary_of_arm(of_arm)
        for of_cell in _cells(runs)
        for arm in Arm
        if (of_arm := _at_the_best_rate([run for run in of_cell if run.arm == arm]))
    ]


def table(runs: Sequence[Run], teachers: dict[str, Teacher]) -> str:
    """Markdown. A difference is in points of top-1, paired by seed, with its 95 % interval."""
    lines = [
        "| Network | Dropped | Images | Teacher | Arm | Top-1 | Top-5 | LIT minus this arm | Latency ratio | Seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for of_cell in _cells(runs):
        by_arm = {arm: _at_the_best_rate([run for run in of_cell if run.arm == arm]) for arm in Arm}
        for arm, of_arm in by_arm.items():
            if of_arm:
                found = _summary_of_arm(of_arm)
                name = arm.value if found["rate"] is None else f"{arm.value}, rate {found['rate']:g}"
                difference = "" if arm == Arm.LIT else _difference(by_arm[Arm.LIT], of_arm)
                lines.append(
                    f"| {found['network']} | {found['drop']} | {found['samples']} "
                    f"| {teachers[found['network']].top1:.2f} | {name} | {_spread(found, 'top1')} "
                    f"| {_spread(found, 'top5')} | {difference} | {found['latency_ratio']:.3f} | {found['seeds']} |"
                )
    return "\n".join(lines)


def _cells(runs: Iterable[Run]) -> list[list[Run]]:
    cells: dict[tuple[str, int, int], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.network, run.drop, run.samples), []).append(run)
    return [cells[key] for key in sorted(cells, key=lambda key: (key[0] != "resnet34", *key))]


def _at_the_best_rate(of_arm: Sequence[Run]) -> list[Run]:
    by_rate: dict[float | None, list[Run]] = {}
    for run in of_arm:
        by_rate.setdefault(run.rate, []).append(run)
    # A rate that has not had all seeds yet is not compared.
    most = max(map(len, by_rate.values()), default=0)
    complete = [found for found in by_rate.values() if len(found) == most]
    return max(complete, key=lambda found: sum(run.top1 for run in found), default=[])


def _summary_of_arm(of_arm: Sequence[Run]) -> dict[str, Any]:
    first = of_arm[0]
    top1, top5, latency = (
        describe([getattr(run, name) for run in of_arm]) for name in ("top1", "top5", "latency_ratio")
    )
    return {
        "network": first.network,
        "drop": first.drop,
        "samples": first.samples,
        "arm": first.arm.value,
        "rate": first.rate,
        "seeds": len(of_arm),
        "top1": top1.mean,
        "top1_std": top1.std,
        "top5": top5.mean,
        "top5_std": top5.std,
        "latency_ratio": latency.mean,
    }


def _spread(found: dict[str, Any], name: str) -> str:
    std = found[f"{name}_std"]
    return f"{found[name]:.2f}" if std is None else f"{found[name]:.2f} ± {std:.2f}"


def _difference(lit: Sequence[Run], other: Sequence[Run]) -> str:
    own = {run.seed: run.top1 for run in lit}
    found = describe([own[run.seed] - run.top1 for run in other if run.seed in own])
    if found.mean is None:
        return ""
    shown = f"{found.mean:+.2f}"
    return shown if found.low is None else f"{shown} ({found.low:+.2f} to {found.high:+.2f})"
