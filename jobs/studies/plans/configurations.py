"""The trials of one configuration, one a seed, taken together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypedDict

from jobs.studies.plans.statistics import describe
from jobs.studies.plans.trials import KeyT, Outcome, Trial, Trials
from lit_spec.states import JobState


class Summary(TypedDict):
    """The fields that every row has."""

    trials: int
    succeeded: int
    failed: int
    stopped: int
    validation_mean: float | None
    validation_std: float | None
    test_mean: float | None
    test_std: float | None
    test_low: float | None
    test_high: float | None
    parameters: int | None
    seconds: float | None
    job_id: str | None


DECIMALS_OF_EQUALS = 3


@dataclass(frozen=True)
class Point:
    trials: tuple[Trial | None, ...]
    """In the order of the seeds; None where none was made yet."""

    @property
    def made(self) -> list[Trial]:
        return [trial for trial in self.trials if trial is not None]

    @property
    def finished(self) -> bool:
        """Whether nothing more will come of it."""
        return all(trial is not None and not trial.live for trial in self.trials)

    @property
    def complete(self) -> bool:
        """Whether every seed succeeded: only such points are compared with one another."""
        return all(trial is not None and trial.outcome is not None for trial in self.trials)

    @property
    def outcomes(self) -> list[Outcome]:
        return [trial.outcome for trial in self.made if trial.outcome is not None]

    @property
    def validation(self) -> float:
        """Mean over the seeds; of a complete point."""
        return fmean(outcome.validation for outcome in self.outcomes)

    @property
    def best_job(self) -> str | None:
        """The trial that is best on the validation split, the first of equals."""
        found = [(trial.outcome.validation, trial.job_id) for trial in self.made if trial.outcome is not None]
        return max(found, key=lambda entry: entry[0])[1] if found else None

    def summary(self) -> Summary:
        validation = describe([outcome.validation for outcome in self.outcomes])
        test = describe(numbers(self.outcomes, lambda outcome: outcome.test))
        states = [trial.state for trial in self.made]
        unwanted = [trial for trial in self.made if trial.state is JobState.CANCELLED and trial.stopped is not None]
        ended_badly = states.count(JobState.FAILED) + states.count(JobState.CANCELLED)
        parameters = [outcome.parameters for outcome in self.outcomes if outcome.parameters is not None]
        return Summary(
            trials=len(self.trials),
            succeeded=states.count(JobState.SUCCEEDED),
            failed=ended_badly - len(unwanted),
            stopped=len(unwanted),
            validation_mean=validation.mean,
            validation_std=validation.std,
            test_mean=test.mean,
            test_std=test.std,
            test_low=test.low,
            test_high=test.high,
            parameters=parameters[0] if parameters else None,
            seconds=describe(numbers(self.outcomes, lambda outcome: outcome.seconds)).mean,
            job_id=self.best_job,
        )


def point(trials: Trials[KeyT], keys: Iterable[KeyT]) -> Point:
    return Point(tuple(trials.get(key) for key in keys))


def best(points: Sequence[tuple[Any, Point]]) -> tuple[Any, Point] | None:
    """The complete point with the highest validation mean, the first of equals; None where none is complete."""
    complete = [entry for entry in points if entry[1].complete]
    # Means of the same counts, added in another order, are equal.
    return max(complete, key=lambda entry: round(entry[1].validation, DECIMALS_OF_EQUALS)) if complete else None


def numbers(outcomes: Sequence[Outcome], read: Callable[[Outcome], float | None]) -> list[float]:
    """What was measured in each trial, leaving out those where it was not."""
    return [value for outcome in outcomes if (value := read(outcome)) is not None]
