"""What the training made of the student: better than before, no better, or at chance."""

from __future__ import annotations

from dataclasses import dataclass

from lit_core.measuring.scores import Prediction, Skill, chance, skill, top1
from lit_core.training.checkpoint import BestEpoch
from lit_spec import Split
from lit_spec.trainer.report import Outcome


@dataclass(frozen=True)
class Judgement:
    outcome: Outcome | None
    """None where start and end can't be compared."""
    notes: list[str]
    """A sentence that says what is wrong with the student, if anything is."""
    acceptable: bool = True
    """False for a student that can't be accepted, however little it lost against the teacher."""


NOT_COMPARABLE = Judgement(None, [])


@dataclass(frozen=True)
class Score:
    """A score of the student, of which larger is better, after its training and before."""

    metric: str
    unit: str
    split: Split
    teacher: float
    """Nothing was to be gained where the student reaches this."""
    trained: float
    untrained: float


def judged_at_chance(prediction: Prediction, metric: str, split: Split) -> Judgement | None:
    """None if the student is not at chance. The labels may be the teacher's answers."""
    if skill(prediction) != Skill.AT_CHANCE:
        return None
    note = (
        f"the student is at chance: its {metric} is {top1(prediction):.1f} % on the {len(prediction.labels)} samples "
        f"of the {split.word} split, where answers that have nothing to do with the samples reach "
        f"{chance(prediction):.1f} %. Lower the learning rates, keep more blocks, or give more data"
    )
    return Judgement(Outcome.AT_CHANCE, [note], acceptable=False)


def judged_by(score: Score, best: BestEpoch) -> Judgement:
    """`best` is the epoch whose weights the student has."""
    reached = f"its {score.metric} on the {score.split.word} split is {score.trained:.2f} {score.unit}"
    if score.trained > score.untrained:
        return Judgement(Outcome.BETTER, [] if best.epoch > 0 else [_only_repaired(reached)])
    acceptable = score.trained >= score.teacher
    advice = "" if acceptable else ". Lower the learning rates, or give more data"
    if best.epoch == 0:
        by, which = Split.VALIDATION.word, "untrained" if score.trained == score.untrained else "repaired"
        note = f"the student is the {which} one, because no epoch was better on the {by} split: {reached}{advice}"
    else:
        was = f"and was {score.untrained:.2f} {score.unit}"
        note = f"the student is no better than before its training: {reached}, {was}{advice}"
    return Judgement(Outcome.NO_BETTER, [note], acceptable=acceptable)


def _only_repaired(reached: str) -> str:
    by = Split.VALIDATION.word
    return (
        f"the student is the repaired one, because no epoch was better on the {by} split: {reached}. Lower the "
        "learning rates, or give more data"
    )
