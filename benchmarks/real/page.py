"""The part of docs/evidence.md on real networks, made from evidence-real.json alone."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.intervals import excludes_zero, shown_difference, spread
from benchmarks.real.experiments import ADAPTOR_STEPS, ARMS, BATCH, DEFAULT, EVEN, EXPERIMENTS, STEPS, Experiment

Run = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    name: str
    title: str
    factor: float = 1.0
    digits: int = 1
    lower_is_better: bool = False

    def of(self, runs: Sequence[Run]) -> list[float]:
        return [self.factor * run[self.name] for run in runs]

    def advantages(self, runs: Sequence[Run], others: Sequence[Run]) -> list[float]:
        """How much nearer to the teacher `runs` are than `others`, paired by seed."""
        by_seed = {run["seed"]: run[self.name] for run in others}
        sign = -self.factor if self.lower_is_better else self.factor
        return [sign * (run[self.name] - by_seed[run["seed"]]) for run in runs if run["seed"] in by_seed]


FIRST = (Metric("agreement", "agreement, %"), Metric("cosine", "cosine, x 100", 100))
SECOND = (
    Metric("kl", "KL divergence", digits=3, lower_is_better=True),
    Metric("spearman", "Spearman, x 100", 100),
)
"""Of image networks, then of sentence encoders."""

HEADING = "## Real networks\n"
NOT_RUN = "`make evidence REAL=1` has not been run yet.\n"
INTRODUCTION = """Pretrained networks made shallower with few samples and no labels:

- `lite0`: EfficientNet-Lite0 with 10 of its 14 blocks, pretrained on ImageNet, on photographs of 128 x 128 pixels.
- `minilm-3` and `minilm-2`: the sentence encoder all-MiniLM-L6-v2 with 3 and with 2 of its 6 layers, on sentences of
  reviews and editorials.

The number at the end of an experiment's name is that of its training samples.

How to read the tables:

- **Agreement** is the share of the test samples to which student and teacher give the same class. **KL** is the mean
  KL divergence of the student's answer from the teacher's, in nats; lower is better. **Cosine** is the mean cosine of
  the student's embedding and the teacher's. **Spearman** compares the cosines of all pairs of test sentences, as the
  student and as the teacher see them. Cosine and Spearman are times 100, so that one is a point, as with agreement.
- **Differences** are `default` minus the arm, for KL the arm minus `default`: plus means that `default` is nearer to
  the teacher. They are paired by seed: a seed decides the training samples and their order, and both arms have the
  same. The brackets are the 95 % interval of the mean of these differences (Student's t). **Bold** means that the
  interval excludes zero.
- **Budget**: all trained arms take {steps} steps of {batch} samples, see the same samples in the same order with the
  same augmentation (random resized crops and mirroring; sentences stay as they are), and leave the statistics of
  BatchNorm alone. What an arm does before its training (the choice of blocks, repairs, adaptors) is not counted in
  steps, but is in the CPU seconds. PRACTISE trains {adaptors} steps for each block that it could leave out.
{rates}
"""
RATES = """- **Learning rates** of {tuned} were chosen by two other seeds on a validation part of the training samples,
for some experiments together; `default` and `lit-even` have their recipe's own."""
LIMITS = """### What this can't say

- The test samples are the same for all seeds. The intervals tell how much the choice and order of the training samples
  changes the result, not how much other test samples would.
- There are {training} training photographs, most of them of single objects on a white ground; with more training
  samples than that, some are other crops of the same photographs. This is not what the networks were trained on, and
  agreement with the teacher is not accuracy: nothing here has labels.
- With three seeds only large differences exclude zero. No correction was made for the number of comparisons.
- lite0-100 has five seeds. Two were added because with three its advantage over distillation nearly excluded zero, so
  that its intervals are less certain than those of a number of seeds that was fixed before.
- The budget is small, so that all of it runs on two cores in an afternoon. With more steps or samples the order of the
  arms may change.
- There is one network of images. No package on PyPI or in Debian was found that has the ImageNet weights of a
  MobileNetV2 or a ResNet.
"""


def real_networks(evidence: Mapping[str, Any]) -> list[str]:
    """The parts of the page. `evidence` is evidence-real.json, empty if there is none."""
    found = {
        experiment.name: [run for run in evidence.get("runs", []) if run["experiment"] == experiment.name]
        for experiment in EXPERIMENTS
    }
    done = {name: by_arm(runs) for name, runs in found.items() if runs}
    if not done:
        return [HEADING, NOT_RUN]
    missing = [name for name in found if name not in done]
    parts = [HEADING, _introduction(), _counts(evidence["data"])]
    if missing:
        parts.append(f"Not run yet: {', '.join(missing)}.\n")
    parts += [*_against_all(done), *_recover_against_even(done)]
    parts += [_section(experiment, done[experiment.name]) for experiment in EXPERIMENTS if experiment.name in done]
    training = [
        counts["training photographs"] for counts in evidence["data"].values() if "training photographs" in counts
    ]
    return [*parts, LIMITS.format(training=training[0] if training else "few")]


def by_arm(runs: Sequence[Run]) -> dict[str, list[Run]]:
    found = {arm: [run for run in runs if run["arm"] == arm] for arm in ARMS}
    return {arm: own for arm, own in found.items() if own}


def _introduction() -> str:
    tuned = ", ".join(f"`{name}`" for name, arm in ARMS.items() if arm.rates)
    arms = "\n".join(f"| `{name}` | {arm.meaning} |" for name, arm in ARMS.items())
    rates = textwrap.fill(RATES.format(tuned=tuned), 120, subsequent_indent="  ")
    text = INTRODUCTION.format(steps=STEPS, batch=BATCH, adaptors=ADAPTOR_STEPS, rates=rates)
    same = (
        "`kd`, `kd-tau8`, `hint` and `mimic` keep the blocks that `default` keeps. Sentence encoders have no `mimic`,\n"
        "which would be the same as `kd`, and no `kd-tau8`, because their distillation has no τ."
    )
    return f"{text}\n| Arm | What it is |\n|---|---|\n{arms}\n\n{same}\n"


def _counts(data: Mapping[str, Mapping[str, int]]) -> str:
    lines = ["| Network | Samples |", "|---|---|"]
    for network, counts in data.items():
        lines.append(f"| {network} | {', '.join(f'{count:,} {name}' for name, count in counts.items())} |")
    return "\n".join([*lines, ""])


def _against_all(done: Mapping[str, Mapping[str, list[Run]]]) -> list[str]:
    parts = ["### The default against all others\n", _decided(done)]
    for metrics in (FIRST, SECOND):
        for metric in metrics:
            rows = []
            for name, arms in done.items():
                if DEFAULT not in arms or metric.name not in arms[DEFAULT][0]:
                    continue
                cells = [_advantage(metric, arms, arm) for arm in ARMS if arm != DEFAULT]
                rows.append(
                    f"| {name} | {statistics.mean(metric.of(arms[DEFAULT])):.{metric.digits}f} | {' | '.join(cells)} |"
                )
            if rows:
                others = [arm for arm in ARMS if arm != DEFAULT]
                head = [f"| Experiment | {DEFAULT} | {' | '.join(others)} |", "|---|---|" + "---|" * len(others)]
                title = f"By {metric.title}: the value of `default`, and its advantage over each other arm."
                parts.append("\n".join([title, "", *head, *rows, ""]))
    return parts if len(parts) > 2 else []


def _decided(done: Mapping[str, Mapping[str, list[Run]]]) -> str:
    """How many of the comparisons below exclude zero, and all of those that are not in favour of the default."""
    above, below, open_ones = 0, [], 0
    for name, arms in done.items():
        for metric in (*FIRST, *SECOND):
            for arm in ARMS:
                if arm == DEFAULT or arm not in arms or DEFAULT not in arms or metric.name not in arms[DEFAULT][0]:
                    continue
                found = metric.advantages(arms[DEFAULT], arms[arm])
                if len(found) < 2:
                    continue
                if excludes_zero(found) and statistics.mean(found) > 0:
                    above += 1
                elif excludes_zero(found):
                    below.append(f"`{arm}` on {name} by {metric.title.split(',')[0]}")
                else:
                    open_ones += 1
    worse = f"in favour of the other arm in {len(below)} ({', '.join(below)})" if below else "of the other arm in none"
    text = (
        f"Of {above + len(below) + open_ones} comparisons, each of an arm, an experiment and a metric, the interval "
        f"excludes zero in favour of `default` in {above}, {worse}, and includes it in {open_ones}."
    )
    return textwrap.fill(text, 120) + "\n"


def _advantage(metric: Metric, arms: Mapping[str, list[Run]], arm: str) -> str:
    found = metric.advantages(arms[DEFAULT], arms[arm]) if arm in arms else []
    return shown_difference(found, metric.digits) if found else ""


def _recover_against_even(done: Mapping[str, Mapping[str, list[Run]]]) -> list[str]:
    """By seed the mean over all experiments, so that the interval is over seeds as everywhere."""
    rows: list[str] = []
    by_seed: dict[int, list[float]] = {}
    for name, arms in done.items():
        if DEFAULT not in arms or EVEN not in arms:
            continue
        metric = next(metric for metric in FIRST if metric.name in arms[DEFAULT][0])
        rows.append(f"| {name} | {_blocks(arms[DEFAULT])} | {_blocks(arms[EVEN])} | {_advantage(metric, arms, EVEN)} |")
        seeds = [run["seed"] for run in arms[DEFAULT] if run["seed"] in {other["seed"] for other in arms[EVEN]}]
        for seed, advantage in zip(seeds, metric.advantages(arms[DEFAULT], arms[EVEN]), strict=True):
            by_seed.setdefault(seed, []).append(advantage)
    whole = [statistics.mean(found) for found in by_seed.values() if len(found) == len(rows)]
    if not whole:
        return []
    return [
        "### `select: recover` against `even`\n",
        "\n".join(
            [
                "The blocks that stay, section by section, and the difference in points of agreement or cosine. The",
                "last row has the mean over all experiments, for each seed first.",
                "",
                "| Experiment | recover | even | Difference |",
                "|---|---|---|---|",
                *rows,
                f"| all {len(rows)} |  |  | {shown_difference(whole)} |",
                "",
            ]
        ),
    ]


def _section(experiment: Experiment, arms: Mapping[str, list[Run]]) -> str:
    some = next(iter(arms.values()))
    first, second = (next(metric for metric in metrics if metric.name in some[0]) for metrics in (FIRST, SECOND))
    lines = [
        f"### {experiment.name}",
        "",
        f"The teacher is {experiment.network}, with {some[0]['teacher_parameters']:,} parameters. The student has",
        f"{experiment.depth} blocks, and is made with {experiment.samples} samples.",
        "",
        f"| Arm | {_capital(first)} | {_capital(second)} | Blocks | Parameters | Learning rate | CPU seconds | Seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm, own in arms.items():
        values = [spread(metric.of(own), metric.digits) for metric in (first, second)]
        parameters = " / ".join(dict.fromkeys(f"{run['parameters']:,}" for run in own))
        rate = "" if own[0]["rate"] is None else f"{own[0]['rate']:g}"
        lines.append(
            f"| {arm} | {' | '.join(values)} | {_blocks(own)} | {parameters} | {rate} | {_seconds(own)} | {len(own)} |"
        )
    notes = dict.fromkeys(note for own in arms.values() for run in own for note in run["notes"])
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), *([""] if notes else [])])


def _seconds(runs: Sequence[Run]) -> str:
    """The median; some runs were made before it was the processor's time that was measured."""
    known = [run["seconds"] for run in runs if run["seconds"] is not None]
    return f"{statistics.median(known):.0f}" if known else ""


def _capital(metric: Metric) -> str:
    return metric.title[0].upper() + metric.title[1:]


def _blocks(runs: Sequence[Run]) -> str:
    """As `0,1 0,2`: the blocks of each section. Several choices if the seeds differ."""
    choices = dict.fromkeys(" ".join(",".join(map(str, kept)) for kept in run["kept"]) for run in runs)
    return " or ".join(choices)
