"""`make bench-data`: images/s and memory, from JPEGs to batches, beside torchvision and WebDataset.

Rounds in which each arm runs once, in a process of its own, on the same JPEGs. `first` is an epoch from the start of
reading: this project decodes into its store meanwhile. `later` is the epoch after it: the others decode again, this
project reads its store. Then one more run of this project on more images, for its memory, and a job whose trainer
decodes and trains. Prints tables and, as the last line, a JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.data.arms import Arm
from benchmarks.data.images import make_archive, make_images
from benchmarks.data.memory import Peaks, run_measured
from benchmarks.data.training import train
from benchmarks.machine import describe
from benchmarks.stopping import exit_on_sigterm

CHECKOUT = Path(__file__).parents[2]
EPOCHS = 2
MIB = 1 << 20


@dataclass(frozen=True)
class Sizes:
    images: int
    memory_images: int
    """0: that run is left out."""
    train_images: int
    """The same of the run of the trainer."""
    baseline_images: int
    """Of a run of the trainer before that one, which shows what the networks need. At least as many as give whole
    batches in each split, so that both run the same batches."""
    side: int
    """Of the JPEGs in pixels."""
    size: int
    """Of the batches' images."""
    batch: int
    workers: int
    rounds: int


@dataclass(frozen=True)
class Run:
    """One arm in one round."""

    arm: Arm
    images: int
    pixels: int
    """A sum over an epoch."""
    prepare_seconds: float
    first_seconds: float
    """Of preparing and of the first epoch."""
    later_seconds: float
    peaks: Peaks


def run_arm(arm: Arm, folder: Path, sizes: Sizes) -> Run:
    shutil.rmtree(folder / "store", ignore_errors=True)
    options = {"size": sizes.size, "batch": sizes.batch, "workers": sizes.workers, "epochs": EPOCHS}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    output, peaks = run_measured([sys.executable, "-m", "benchmarks.data.arms", arm, str(folder), *flags], CHECKOUT)
    found = json.loads(output)
    assert len(set(found["pixels"])) == 1, "an epoch had other pixels than another"
    first, later = found["epoch_seconds"]
    prepare = found["prepare_seconds"]
    return Run(arm, found["images"][0], found["pixels"][0], prepare, prepare + first, later, peaks)


def compare(folder: Path, sizes: Sizes) -> list[Run]:
    """Each arm once a round, in turns. All see the same pixels."""
    runs = [run_arm(arm, folder, sizes) for _ in range(sizes.rounds) for arm in Arm]
    seen = {(run.images, run.pixels) for run in runs}
    assert seen == {(sizes.images, runs[0].pixels)}, f"the arms had different images: {seen}"
    return runs


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """By arm: medians and spreads of images/s, and the largest peaks of memory in MiB."""
    found = {}
    for arm in Arm:
        own = [run for run in runs if run.arm == arm]
        found[arm.value] = {
            "decode": _rates([run.images / run.prepare_seconds for run in own]) if arm == Arm.LIT else None,
            "first": _rates([run.images / run.first_seconds for run in own]),
            "later": _rates([run.images / run.later_seconds for run in own]),
            "anonymous_mib": max(run.peaks.anonymous for run in own) // MIB,
            "resident_mib": max(run.peaks.resident for run in own) // MIB,
            "alone_mib": max(run.peaks.alone for run in own) // MIB,
        }
    return found


def _rates(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 1),
        "least": round(min(values), 1),
        "most": round(max(values), 1),
    }


def table(found: dict[str, Any]) -> str:
    lines = [
        "| arm | decoding | first epoch | later epoch | anonymous MiB | resident MiB |",
        "|---|---|---|---|---|---|",
    ]
    for arm, one in found.items():
        rates = [_shown(one[name]) for name in ("decode", "first", "later")]
        lines.append(f"| {arm} | {' | '.join(rates)} | {one['anonymous_mib']} | {one['resident_mib']} |")
    return "\n".join(lines)


def _shown(rates: dict[str, float] | None) -> str:
    return "" if rates is None else f"{rates['median']:.0f} ({rates['least']:.0f} to {rates['most']:.0f})"


def bench(folder: Path, sizes: Sizes) -> dict[str, Any]:
    images = make_images(folder, sizes.images, sizes.side)
    print(f"{images.count} JPEGs of {sizes.side} pixels, {images.bytes / images.count:.0f} bytes each")
    found = summary(compare(folder, sizes))
    print("images/s, median (least to most):\n")
    print(table(found))
    result: dict[str, Any] = {"bench": "data", "machine": describe(), "sizes": asdict(sizes), "arms": found}
    if sizes.memory_images:
        memory = _memory(folder, sizes)
        print("\nmemory with {images} images, {data_mib} MiB decoded: {anonymous_mib} MiB".format(**memory))
        result["memory"] = memory
    if sizes.train_images:
        baseline, trained = (
            train(folder / f"job-{images}", images, sizes.side, sizes.size, sizes.batch, sizes.workers)
            for images in (sizes.baseline_images, sizes.train_images)
        )
        result |= {"train_baseline": asdict(baseline), "train_run": asdict(trained)}
        result["above_networks_mib"] = trained.anonymous_mib - baseline.anonymous_mib
        print(
            f"\na job with {trained.images} images: decoded in {trained.decode_seconds} s, first step after "
            f"{trained.first_step_seconds} s, at most {trained.anonymous_mib} MiB, {result['above_networks_mib']} MiB "
            f"more than with {baseline.images} images"
        )
    return result


def _memory(folder: Path, sizes: Sizes) -> dict[str, int]:
    make_archive(folder / "images.zip", sizes.memory_images, sizes.side)
    peaks = run_arm(Arm.LIT, folder, sizes).peaks
    return {
        "images": sizes.memory_images,
        "data_mib": sizes.memory_images * sizes.size * sizes.size * 3 // MIB,
        "anonymous_mib": peaks.anonymous // MIB,
        "resident_mib": peaks.resident // MIB,
        "alone_mib": peaks.alone // MIB,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    images = {"images": 6000, "memory-images": 20_000, "train-images": 20_000, "baseline-images": 2600}
    usual = {**images, "side": 256, "size": 224, "batch": 64, "workers": 2, "rounds": 3}
    for name, value in usual.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", type=Path, help="where the files are made, and removed; by default in /tmp")
    given = vars(parser.parse_args(arguments))
    with tempfile.TemporaryDirectory(dir=given.pop("folder")) as folder:
        result = bench(Path(folder), Sizes(**given))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    exit_on_sigterm()
    sys.exit(main())
