"""Which running trials can no longer reach what is needed, as an optuna pruner sees it.

The ledger stays the truth: each look makes an in-memory study of the curves that stand there, asks, and forgets it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobs.studies.kinds.trials import EpochKey

WARM_UP = 0.5
"""Share of all epochs before which nothing is judged."""


def hopeless(curve: Mapping[EpochKey, float], needed: float, completed: Sequence[Mapping[EpochKey, float]]) -> bool:
    """Whether a trial would end below `needed` even with the largest gain that a completed trial had from here on.

    `curve` and `completed` are what trials with the same schedule were selected by, after each epoch, larger being
    better. A trial counts with the best of its epochs so far.
    """
    epochs = sorted({epoch for done in completed for epoch in done})
    steps = {epoch: step for step, epoch in enumerate(epochs, start=1)}
    reached = {steps[epoch]: value for epoch, value in curve.items() if epoch in steps}
    if not reached:
        return False
    wanted = [{steps[epoch]: value for epoch, value in _to_reach(done, needed).items()} for done in completed]
    return _prune(reached, wanted, warm_up=round(WARM_UP * len(epochs)))


def _to_reach(done: Mapping[EpochKey, float], needed: float) -> dict[EpochKey, float]:
    """What this trial would have had to be at after each epoch, for its gain from there on to end at `needed`."""
    final = max(done.values(), default=0.0)
    return {epoch: needed - max(final - value, 0.0) for epoch, value in done.items()}


def _prune(reached: dict[int, float], wanted: Sequence[dict[int, float]], warm_up: int) -> bool:
    # Here, because only studies that stop trials early need it.
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Percentile 100 keeps whatever is not below all of the others.
    pruner = optuna.pruners.PercentilePruner(100.0, n_startup_trials=1, n_warmup_steps=warm_up)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for values in wanted:
        study.add_trial(create_trial(value=max(values.values(), default=0.0), intermediate_values=values))
    running = create_trial(state=TrialState.RUNNING, intermediate_values=reached)
    return pruner.prune(study, running)
