"""`search`: the hyperparameters in the paper's order.

Koratana et al., ICML 2019, section 4: τ is set first, then α for that τ, then β for both, all on the validation split.
τ and α belong to the KD loss, so that distillation alone finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jobs.studies.kinds.configurations import Configuration, best
from jobs.studies.kinds.trials import Choice, Key, NextSteps, StudySpec, Template, Trials, TrialsRow, race_of_trials
from lit_spec import Method, SpecError, Task
from lit_spec.errors import StudyError, StudyErrorType
from lit_spec.merge_patch import merge_patch
from lit_spec.requests.resolve import with_preset
from lit_spec.requests.study import SearchRequest


class Stage(StrEnum):
    TAU = "tau"
    ALPHA = "alpha"
    BETA = "beta"


class SearchKey(Key):
    """The configuration that a trial trains. One that two stages ask for is trained once."""

    method: Method
    tau: float
    alpha: float
    beta: float | None = None
    """None for distillation, which has no β."""


class SearchRow(TrialsRow):
    stage: Stage
    method: Method
    tau: float
    alpha: float
    beta: float | None


_DISTILLATION = {Method.LIT: Method.KD, Method.BORN_AGAIN_LIT: Method.BORN_AGAIN_KD}


@dataclass(frozen=True)
class _Step:
    """A stage that can run because the earlier ones are decided: its values and the keys of each, one per seed."""

    stage: Stage
    candidates: Mapping[float, tuple[SearchKey, ...]]
    own: float
    """The value that the job has without a search."""

    @property
    def searched(self) -> bool:
        """A stage with one value needs no trials, but the last stage trains the students that the study is for."""
        return len(self.candidates) > 1 or self.stage is Stage.BETA

    def configurations(self, trials: Trials[SearchKey]) -> list[tuple[float, Configuration]]:
        return [(value, Configuration.of(trials, keys)) for value, keys in self.candidates.items()]

    def winner(self, trials: Trials[SearchKey]) -> tuple[float, Configuration] | None:
        """The best value once all trials are finished: of equals the job's own value, else the first.

        None if no value has a succeeded trial for every seed.
        """
        configurations = sorted(self.configurations(trials), key=lambda entry: entry[0] != self.own)
        return best(configurations) if all(found.finished for _, found in configurations) else None

    def value(self, trials: Trials[SearchKey]) -> float | None:
        """The value that the stage has chosen; None while it has chosen none."""
        if not self.searched:
            return next(iter(self.candidates))
        winner = self.winner(trials)
        return None if winner is None else winner[0]


class Search:
    reads_curves = False
    columns = SearchRow

    def __init__(self, spec: StudySpec, request: SearchRequest) -> None:
        """Raises SpecError where there is nothing to search."""
        job = request.job
        if spec.inspection.architecture.task is not Task.CLASSIFICATION:
            raise SpecError("kind", "search is for classifiers: a generator has no KD loss, and so no tau and alpha")
        if job.method not in _DISTILLATION:
            raise SpecError("job.method", f"{job.method} has no beta to search for: leave it out, and lit is searched")
        for name in ("tau", "beta"):
            if name in job.model_fields_set:
                raise SpecError(
                    f"job.{name}",
                    f"is what the study searches for: leave it out, or give the values to try in `{name}s`",
                )
        if job.race is True:
            raise SpecError(
                "job.race",
                'lets methods compete in each trial, which hides what a value does: leave it out, or give "rates"',
            )
        self._seeds = request.explicit_seeds
        self._grids = {Stage.TAU: request.taus, Stage.ALPHA: request.alphas, Stage.BETA: request.betas}
        self._method = job.method
        try:
            whole = with_preset(job, spec.inspection.architecture)
        except SpecError as wrong:
            raise SpecError(f"job.{wrong.field}", wrong.message) from wrong
        self._job = {**spec.job, "race": race_of_trials(whole)}
        self._alpha = whole.alpha
        self._own = {Stage.TAU: whole.tau, Stage.ALPHA: whole.alpha, Stage.BETA: whole.beta}

    @property
    def planned(self) -> int:
        searched = [grid for stage, grid in self._grids.items() if stage is Stage.BETA or len(grid) > 1]
        # The winner of the first stage is a configuration of the second, if that has the α of the first.
        shared = all(len(self._grids[stage]) > 1 for stage in (Stage.TAU, Stage.ALPHA))
        twice = shared and self._alpha in self._grids[Stage.ALPHA]
        return (sum(map(len, searched)) - twice) * len(self._seeds)

    def key(self, stored: Mapping[str, Any]) -> SearchKey:
        return SearchKey.model_validate(stored)

    def request(self, key: SearchKey) -> dict[str, Any]:
        return merge_patch(self._job, key.stored())

    def templates(self) -> Iterator[Template]:
        tau = self._grids[Stage.TAU][0]
        for step in (self._tau_step(), self._alpha_step(tau), self._beta_step(tau, self._alpha)):
            for number, keys in enumerate(step.candidates.values()):
                origins = {step.stage.value: f"{step.stage}s.{number}", "method": "kind"}
                yield Template(self.request(keys[0]), self._job, origins)

    def next_steps(self, trials: Trials[SearchKey], _width: int, /) -> NextSteps[SearchKey]:
        steps = self._steps(trials)
        last = steps[-1]
        # Seed by seed, because no value is known to be better before the first trial has finished.
        new = [key for keys in zip(*last.candidates.values(), strict=True) for key in keys if key not in trials]
        if new or not all(found.finished for _, found in last.configurations(trials)):
            return NextSteps(new=new)
        winner = last.winner(trials)
        if winner is None:
            detail = (
                f"no {last.stage} has a succeeded trial for every seed: see the jobs' errors, then resume the study"
            )
            return NextSteps(failure=StudyError(type=StudyErrorType.NO_RESULT, detail=detail))
        values = {step.stage.value: step.value(trials) for step in steps}
        return NextSteps(choice=Choice(values=values, job_id=winner[1].best_job))

    def table(self, trials: Trials[SearchKey]) -> list[SearchRow]:
        return [
            SearchRow(
                stage=step.stage,
                method=step.candidates[value][0].method,
                tau=step.candidates[value][0].tau,
                alpha=step.candidates[value][0].alpha,
                beta=step.candidates[value][0].beta,
                **found.summary(),
                chosen=step.value(trials) == value,
            )
            for step in self._steps(trials)
            if step.searched
            for value, found in step.configurations(trials)
        ]

    def _steps(self, trials: Trials[SearchKey]) -> list[_Step]:
        """The stages up to the current one."""
        steps = [self._tau_step()]
        tau = steps[-1].value(trials)
        if tau is not None:
            steps.append(self._alpha_step(tau))
            alpha = steps[-1].value(trials)
            if alpha is not None:
                steps.append(self._beta_step(tau, alpha))
        return steps

    def _tau_step(self) -> _Step:
        return self._step(Stage.TAU, lambda tau, seed: self._distilled(tau, self._alpha, seed))

    def _alpha_step(self, tau: float) -> _Step:
        return self._step(Stage.ALPHA, lambda alpha, seed: self._distilled(tau, alpha, seed))

    def _beta_step(self, tau: float, alpha: float) -> _Step:
        return self._step(
            Stage.BETA,
            lambda beta, seed: SearchKey(method=self._method, tau=tau, alpha=alpha, beta=beta, seed=seed),
        )

    def _step(self, stage: Stage, key: Callable[[float, int], SearchKey]) -> _Step:
        candidates = {value: tuple(key(value, seed) for seed in self._seeds) for value in self._grids[stage]}
        return _Step(stage, candidates, self._own[stage])

    def _distilled(self, tau: float, alpha: float, seed: int) -> SearchKey:
        return SearchKey(method=_DISTILLATION[self._method], tau=tau, alpha=alpha, seed=seed)
