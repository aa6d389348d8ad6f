"""What is shown and called while `lit_core.compress` trains: a progress bar, and the caller's callbacks."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Protocol

from lit_core.training.checkpoint import Checkpoint
from lit_core.training.loop import Observer
from lit_spec import Phase
from lit_spec.trainer.messages import EpochDone, Progress

SHOWN = ("loss", "student_accuracy", "cosine")
"""Metrics beside the bar, where the training has them."""


class Callback(Protocol):
    """Is called while the training runs. What it raises ends the training, and `compress` raises it."""

    def on_epoch(self, done: EpochDone) -> None:
        """An epoch is done, with these metrics."""


class Watched:
    """An observer that also moves the bar and calls the callbacks."""

    def __init__(self, observer: Observer, callbacks: Sequence[Callback], bar: Any) -> None:
        """`bar` is None, or one of tqdm."""
        self.observer, self.callbacks, self.bar = observer, callbacks, bar

    def epoch(
        self, phase: Phase, epoch: int, epochs: int, fraction: float, metrics: dict[str, float], steps: int
    ) -> None:
        if self.bar is not None:
            self.bar.set_description(f"{phase} {epoch}/{epochs}", refresh=False)
            self.bar.set_postfix({name: f"{metrics[name]:.4g}" for name in SHOWN if name in metrics}, refresh=False)
            self._move(fraction)
        self.observer.epoch(phase, epoch, epochs, fraction, metrics, steps)
        done = EpochDone(phase=phase, epoch=epoch, epochs=epochs, fraction=fraction, metrics=metrics, steps=steps)
        for callback in self.callbacks:
            callback.on_epoch(done)

    def progress(self, progress: Progress) -> None:
        if self.bar is not None:
            at = f" {progress.epoch + 1}/{progress.epochs}" if progress.epochs else ""
            self.bar.set_description(f"{progress.phase.replace('_', ' ')}{at}", refresh=False)
            self._move(progress.fraction)
        self.observer.progress(progress)

    def _move(self, fraction: float | None) -> None:
        # An unstable training goes back to an earlier epoch, and the bar with it.
        if fraction is not None:
            done = round(fraction * self.bar.total, 2)
            self.bar.n = int(done) if done.is_integer() else done
        self.bar.refresh()

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        self.observer.checkpoint(checkpoint)

    def stop_requested(self) -> bool:
        return self.observer.stop_requested()


@contextmanager
def watched(observer: Observer, callbacks: Sequence[Callback], progress: bool | None, epochs: int) -> Iterator[Watched]:
    """`epochs` of the whole training. With `progress` None there is a bar where somebody can see it. Raises ValueError
    where a bar is asked for and tqdm is not installed."""
    if not _wanted(progress):
        yield Watched(observer, callbacks, None)
        return
    with warnings.catch_warnings():
        # In notebooks without ipywidgets tqdm's bar is plain text, and it warns about that.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    with tqdm(total=epochs, desc="choosing blocks", unit="epoch") as bar:
        yield Watched(observer, callbacks, bar)


def _wanted(progress: bool | None) -> bool:
    installed = find_spec("tqdm") is not None
    if progress and not installed:
        raise ValueError("progress needs the package tqdm: install lit-compress[notebook], or leave progress out")
    return progress if progress is not None else installed and (sys.stderr.isatty() or _in_notebook())


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", {})
