"""The trials of one configuration, one a seed, taken together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Self

from jobs.studies.kinds.statistics import describe
from jobs.studies.kinds.trials import KeyT, Trial, TrialResult, Trials
from lit_spec.states import JobState

DECIMALS_OF_EQUALS = 3


@dataclass(frozen=True)
class Configuration:
    """One configuration's trials."""

    trials: tuple[Trial | None, ...]
    """In the order of the seeds; None where none was made yet."""

    @classmethod
    def of(cls, trials: Trials[KeyT], keys: Iterable[KeyT]) -> Self:
        """The trials of these keys, which differ in their seeds only."""
        return cls(tuple(trials.get(key) for key in keys))

    @property
    def made(self) -> list[Trial]:
        return [trial for trial in self.trials if trial is not None]

    @property
    def finished(self) -> bool:
        """Whether all of its trials are finished."""
        return all(trial is not None and not trial.live for trial in self.trials)

    @property
    def complete(self) -> bool:
        """Whether every seed succeeded: only such configurations are compared with one another."""
        return all(trial is not None and trial.result is not None for trial in self.trials)

    @property
    def results(self) -> list[TrialResult]:
        return [trial.result for trial in self.made if trial.result is not None]

    @property
    def validation(self) -> float:
        """Mean over the seeds, for a complete configuration."""
        return fmean(result.validation for result in self.results)

    @property
    def best_job(self) -> str | None:
        """The trial that is best on the validation split, the first of equals."""
        found = [(trial.result.validation, trial.job_id) for trial in self.made if trial.result is not None]
        return max(found, key=lambda entry: entry[0])[1] if found else None

    def summary(self) -> dict[str, Any]:
        """The fields of a `TrialsRow`, without whether it is chosen."""
        validation = describe([result.validation for result in self.results])
        test = describe(numbers(self.results, lambda result: result.test))
        states = [trial.state for trial in self.made]
        unwanted = [trial for trial in self.made if trial.state is JobState.CANCELLED and trial.stopped is not None]
        ended_badly = states.count(JobState.FAILED) + states.count(JobState.CANCELLED)
        parameters = [result.parameters for result in self.results if result.parameters is not None]
        return {
            "trials": len(self.trials),
            "succeeded": states.count(JobState.SUCCEEDED),
            "failed": ended_badly - len(unwanted),
            "stopped": len(unwanted),
            "validation_mean": validation.mean,
            "validation_std": validation.std,
            "test_mean": test.mean,
            "test_std": test.std,
            "test_low": test.low,
            "test_high": test.high,
            "parameters": parameters[0] if parameters else None,
            "seconds": describe(numbers(self.results, lambda result: result.seconds)).mean,
            "job_id": self.best_job,
        }


def best(configurations: Sequence[tuple[Any, Configuration]]) -> tuple[Any, Configuration] | None:
    """The complete configuration with the highest validation mean, the first of equals; None if none is complete."""
    complete = [entry for entry in configurations if entry[1].complete]
    # Rounded, because means of the same numbers in another order must be equal.
    return max(complete, key=lambda entry: round(entry[1].validation, DECIMALS_OF_EQUALS)) if complete else None


def numbers(results: Sequence[TrialResult], read: Callable[[TrialResult], float | None]) -> list[float]:
    """One measurement of each trial that has it."""
    return [value for result in results if (value := read(result)) is not None]
