"""The training of a student: the first phase, then fine-tuning, then fine-tuning after each pruning that is asked for;
epoch by epoch, resumable at any step."""

from __future__ import annotations

import math
import time
from typing import Any, Protocol

import torch
from torch import nn

from lit_core.networks.block_selection import Selection
from lit_core.networks.state_dicts import load_state
from lit_core.training.checkpoint import Best, Checkpoint, Position, State
from lit_core.training.learning_rate import learning_rate
from lit_core.training.objectives import Batch
from lit_core.training.sampling import generator_of, rows_of, steps_per_epoch
from lit_core.training.task import Trainable
from lit_core.training.updaters import Program
from lit_spec import Hyperparameters, Phase
from lit_spec.requests.then import prune_shares

PHASES = (Phase.LIT, Phase.FINE_TUNE)
STEPS_BETWEEN_FINITE_CHECKS = 25
SECONDS_BETWEEN_CHECKPOINTS = 300.0


class Diverged(Exception):
    """A loss is no longer finite."""


class Drained(Exception):
    """The training was asked to stop, and its checkpoint is written."""


class Observer(Protocol):
    """Where a training's news goes."""

    def epoch(self, phase: Phase, epoch: int, epochs: int, fraction: float, metrics: dict[str, float]) -> None: ...

    def checkpoint(self, checkpoint: Checkpoint) -> None: ...

    def stop_requested(self) -> bool: ...


class Training:
    """Trains the task's student. `run` returns the epoch that scores best on the validation split, or that supersedes
    it; and after it the same for each pruning, which goes on from the one before."""

    def __init__(
        self,
        spec: Hyperparameters,
        task: Trainable,
        device: torch.device,
        observer: Observer,
        *,
        selection: Selection,
        environment: dict[str, str],
    ) -> None:
        self.spec = spec
        self.task = task
        self.device = device
        self.observer = observer
        self.selection = selection
        self.environment = environment
        self.samples = task.samples
        self.steps_per_epoch = steps_per_epoch(self.samples, spec.schedule)
        self.prunings = prune_shares(spec.then)
        self.phases = [phase for phase in PHASES if spec.schedule.of(phase).epochs > 0]
        self.position = Position(self.phases[0], 0, 0)
        self.best: Best | None = None
        self.done: list[Best] = []
        self.epochs: list[dict[str, Any]] = []
        self.resumes: list[dict[str, Any]] = []
        self._restored: Checkpoint | None = None
        self._begin_epoch(names=0)

    def restore(self, checkpoint: Checkpoint, attempt: int) -> None:
        """Go on where the checkpoint stands. A different environment is noted: bits may differ then."""
        load_state(self.task.student.network, checkpoint.student)
        if checkpoint.random is not None:
            torch.set_rng_state(checkpoint.random)
        self.position = checkpoint.position
        self.best, self.done = checkpoint.best, checkpoint.done
        self.epochs = checkpoint.epochs
        self._restored = checkpoint
        before = checkpoint.environment
        differences = {k: [before.get(k), v] for k, v in self.environment.items() if before.get(k) != v}
        self.resumes = [
            *checkpoint.resumes,
            {
                "attempt": attempt,
                "phase": self.position.phase.value,
                "epoch": self.position.epoch + 1,
                "step": self.position.step,
                "bit_identical": not differences and self.device.type == "cpu",
                "differences": differences,
            },
        ]

    def run(self) -> list[Best]:
        """Raises Diverged, and Drained after a stop was asked for."""
        if self.position.phase != Phase.PRUNE:
            for phase in self.phases[self.phases.index(self.position.phase) :]:
                self._run_phase(phase)
        for number in range(max(len(self.done) - 1, 0), len(self.prunings)):
            self._prune(number)
        return [*self.done, self._chosen()]

    def _chosen(self) -> Best:
        if self.best is None:
            raise ValueError("the schedule has no epoch in any phase that runs")
        return self.best

    def _prune(self, number: int) -> None:
        """What was chosen so far loses its smallest weights and is fine-tuned again; as it was pruned, it is the first
        to be chosen from."""
        network, restored = self.task.student.network, self._restored
        if restored is None:
            self.done.append(self._chosen())
        load_state(network, self.done[number].state)
        self.task.prune(self.prunings[number])
        first = number * self._epochs_of(Phase.FINE_TUNE)
        if restored is None:
            self.position = Position(Phase.PRUNE, first, 0)
            self.best = Best(Phase.PRUNE, 0, self.task.score().value, _kept(network))
        else:
            load_state(network, restored.student)
        self._run_phase(Phase.PRUNE, first)

    def _run_phase(self, phase: Phase, first: int = 0) -> None:
        """All epochs, of which `first` is the number of the first one."""
        schedule = self.spec.schedule.of(phase)
        if self.position.phase != phase:
            self.position = Position(phase, first, 0)
        program = self.task.program(phase)
        self._begin_epoch(len(program.names))
        if self._restored is not None:
            self._resume(program, self._restored)
        for epoch in range(self.position.epoch, first + schedule.epochs):
            self._run_epoch(phase, epoch, epoch - first, program)

    def _resume(self, program: Program, checkpoint: Checkpoint) -> None:
        program.restore(checkpoint.program)
        if checkpoint.position.step:
            self._sums, self._seen = checkpoint.sums.to(self.device), checkpoint.seen
            self._epoch_started = time.monotonic() - checkpoint.seconds
        self._restored = None

    def _run_epoch(self, phase: Phase, epoch: int, passed: int, program: Program) -> None:
        """`passed` are the epochs since the learning rate's schedule began."""
        schedule = self.spec.schedule.of(phase)
        program.begin_epoch()
        total = schedule.epochs * self.steps_per_epoch
        for step in range(self.position.step, self.steps_per_epoch):
            done = passed * self.steps_per_epoch + step
            rate = learning_rate(schedule, done, self.steps_per_epoch)
            batch = self._batch(phase, epoch, step, done / total)
            losses = program.step(batch, rate)
            self._sums += losses * len(batch.labels)
            self._seen += len(batch.labels)
            self.position = Position(phase, epoch, step + 1)
            if step % STEPS_BETWEEN_FINITE_CHECKS == 0:
                self._check_finite()
            self._pause(program)
        self._check_finite()
        self._end_epoch(phase, epoch, passed, program)
        self._checkpoint(program)
        self._drain()

    def _batch(self, phase: Phase, epoch: int, step: int, position: float) -> Batch:
        seed = self.spec.seed
        rows = rows_of(self.samples, self.spec.schedule, seed, phase, epoch, step)
        place = (phase.value, epoch, step)
        augmentation = generator_of(seed, "augment", *place)
        return self.task.batch(rows, position, augmentation, generator_of(seed, "step", *place))

    def _end_epoch(self, phase: Phase, epoch: int, passed: int, program: Program) -> None:
        metrics = self._means(program)
        scores = self.task.score()
        if not all(map(math.isfinite, scores.metrics.values())):
            raise Diverged(f"the student's output is no longer finite in epoch {epoch + 1} of the {phase} phase")
        metrics |= scores.metrics
        last = (passed + 1) * self.steps_per_epoch - 1
        rate = learning_rate(self.spec.schedule.of(phase), last, self.steps_per_epoch)
        metrics |= {"learning_rate": rate, "seconds": time.monotonic() - self._epoch_started}
        if self.best is None or self.task.supersedes(phase) or scores.value >= self.best.score:
            self.best = Best(phase, epoch + 1, scores.value, _kept(self.task.student.network))
        self.epochs.append({"phase": phase.value, "epoch": epoch + 1, **metrics})
        self.position = Position(phase, epoch + 1, 0)
        self.observer.epoch(phase, epoch + 1, self._epochs_of(phase), self._fraction(), metrics)
        self._begin_epoch(len(program.names))

    def _pause(self, program: Program) -> None:
        """Between two steps: a checkpoint when it is time for one or a stop is asked for."""
        if self.observer.stop_requested() or time.monotonic() - self._saved > SECONDS_BETWEEN_CHECKPOINTS:
            self._checkpoint(program)
            self._drain()

    def _drain(self) -> None:
        if self.observer.stop_requested():
            raise Drained

    def _checkpoint(self, program: Program) -> None:
        self.observer.checkpoint(
            Checkpoint(
                position=self.position,
                student=_to_cpu(self.task.student.network.state_dict()),
                program=program.state(),
                sums=self._sums.cpu(),
                seen=self._seen,
                seconds=time.monotonic() - self._epoch_started,
                best=self.best,
                done=self.done,
                epochs=self.epochs,
                environment=self.environment,
                selection=self.selection,
                resumes=self.resumes,
            )
        )
        self._saved = time.monotonic()

    def _epochs_of(self, phase: Phase) -> int:
        epochs = self.spec.schedule.of(phase).epochs
        return epochs * len(self.prunings) if phase == Phase.PRUNE else epochs

    def _fraction(self) -> float:
        phases = [*self.phases, Phase.PRUNE]
        epochs = [self._epochs_of(phase) for phase in phases]
        before = sum(epochs[: phases.index(self.position.phase)])
        return (before + self.position.epoch) / sum(epochs)

    def _begin_epoch(self, names: int) -> None:
        self._sums = torch.zeros(names, dtype=torch.float64, device=self.device)
        self._seen = 0
        self._epoch_started = self._saved = time.monotonic()

    def _means(self, program: Program) -> dict[str, float]:
        means = dict(zip(program.names, (self._sums / max(self._seen, 1)).tolist(), strict=True))
        sections = [value for name, value in means.items() if name.startswith("ir_loss_")]
        return means | ({"ir_loss": math.fsum(sections)} if sections else {})

    def _check_finite(self) -> None:
        if not torch.isfinite(self._sums).all():
            position = self.position
            raise Diverged(f"the loss is no longer finite in epoch {position.epoch + 1} of the {position.phase} phase")


def _kept(network: nn.Module) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


def _to_cpu(state: State) -> State:
    return {name: tensor.detach().cpu() for name, tensor in state.items()}
