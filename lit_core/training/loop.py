"""The training of a student, epoch by epoch and step by step, resumable at any step.

It has a LIT phase, then fine-tuning, then another fine-tuning after each pruning operation of `then`. One batch goes
through `Training._run_step`: the samples of the step -> `task.batch` -> `updater.step` -> objective -> losses.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from lit_core.networks.block_selection import Selection
from lit_core.networks.state_dicts import load_state
from lit_core.seeding import generator_of, mix, seed_globals, seeded
from lit_core.training.batch import Batch
from lit_core.training.checkpoint import (
    BestEpoch,
    Checkpoint,
    GoodState,
    State,
    TrainingPosition,
    copy_of_state,
)
from lit_core.training.group import ALONE, Group
from lit_core.training.recipe import race, with_winner
from lit_core.training.setbacks import (
    MOST_SETBACKS,
    RATE_CUT,
    Unstable,
    copied,
    cuts_of,
    diverged,
    finite_or_none,
    has_collapsed,
    has_risen,
    note_of,
)
from lit_core.training.steps import learning_rate, rows_of, samples_of, steps_per_epoch
from lit_core.training.task import Scores, Trainable
from lit_core.training.updaters import Updater
from lit_spec import Hyperparameters, Phase, PhaseSchedule
from lit_spec.requests.then import prune_shares
from lit_spec.trainer.messages import Progress
from lit_spec.trainer.phases import JobPhase
from lit_spec.trainer.report import EpochReport, Race, Resume, Setback

PHASES = (Phase.LIT, Phase.FINE_TUNE)
STEPS_BETWEEN_FINITE_CHECKS = 25
SECONDS_BETWEEN_PROGRESS = 1.0
SECONDS_BETWEEN_CHECKPOINTS = 300.0

TaskT = TypeVar("TaskT", bound=Trainable)

log = logging.getLogger(__name__)


class Drained(Exception):
    """The training was asked to stop. It has written its checkpoint, unless it had not begun."""


class Observer(Protocol):
    """Is told about the progress of the training, and may stop it."""

    def epoch(
        self, phase: Phase, epoch: int, epochs: int, fraction: float, metrics: dict[str, float], steps: int
    ) -> None:
        """An epoch is done: `epoch` (from 1) of the phase's `epochs`. `fraction` of the whole training is done.

        The epoch had so many optimisation `steps`.
        """

    def progress(self, progress: Progress) -> None:
        """Called when a phase begins, after the first step, and between two steps, at most once a second."""

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Store the checkpoint."""

    def stop_requested(self) -> bool:
        """Asked between two steps. If True, the training writes a checkpoint and raises Drained."""


@dataclass(frozen=True)
class TrainedStudent(Generic[TaskT]):
    """The result of a training: the task with its trained student, and how the training went."""

    task: TaskT
    selection: Selection
    untrained: State
    """The student's weights before its training."""
    chosen: list[BestEpoch]
    """The epoch whose weights the student has, then the epoch chosen after each pruning."""
    epochs: list[EpochReport]
    resumes: list[Resume]
    setbacks: list[Setback]
    race: Race | None


def train_student(
    task: TaskT,
    hyperparameters: Hyperparameters,
    observer: Observer,
    *,
    selection: Selection,
    environment: Mapping[str, str] | None = None,
    checkpoint: Checkpoint | None = None,
    attempt: int = 1,
    group: Group = ALONE,
) -> TrainedStudent[TaskT]:
    """Train the task's student, which has the weights of its best epoch afterwards.

    Epoch 0 is the untrained student, or the repaired one if the selection has one that is no worse.

    `selection` says which blocks the student has. With a checkpoint the training continues from there. `compress` and
    the service's trainer both call this function. Each process of a `group` calls it with the same arguments, but its
    own observer. Raises Diverged, and Drained when the observer asks to stop.
    """
    untrained = copy_of_state(task.student.network)
    environment = dict(environment or {})
    training = Training(hyperparameters, task, observer, selection=selection, environment=environment, group=group)
    if checkpoint is not None:
        training.restore(checkpoint, attempt)
    with seeded(hyperparameters.seed):
        chosen = training.run()
    load_state(task.student.network, chosen[0].state)
    return TrainedStudent(
        task, selection, untrained, chosen, training.epochs, training.resumes, training.setbacks, training.race
    )


class Training:
    """The state of a training."""

    def __init__(
        self,
        spec: Hyperparameters,
        task: Trainable,
        observer: Observer,
        *,
        selection: Selection,
        environment: dict[str, str],
        group: Group,
    ) -> None:
        self.spec = spec
        self.task = task
        self.group = group
        self.device = next(task.student.network.parameters()).device
        self.observer = observer
        self.selection = selection
        self.environment = environment
        self.samples = task.samples
        self.steps_per_epoch = steps_per_epoch(self.samples, spec.schedule)
        self.prunings = prune_shares(spec.then)
        self.phases = [phase for phase in PHASES if spec.schedule.of(phase).epochs > 0]
        self.position = TrainingPosition(self.phases[0], 0, 0)
        self.best: BestEpoch | None = None
        self.chosen_before: list[BestEpoch] = []
        self.epochs: list[EpochReport] = []
        self.resumes: list[Resume] = []
        self.setbacks: list[Setback] = []
        self.race: Race | None = None
        self._restored: Checkpoint | None = None
        # What modules draw, as dropout does, must differ between rows.
        self._own_stream = (group.rank,) if group.rank else ()
        # The first step is told at once.
        self._told = -math.inf
        self._begin_epoch(losses=0)

    def restore(self, checkpoint: Checkpoint, attempt: int) -> None:
        """Continue from the checkpoint. A different environment is noted, because it may change the result, which later
        attempts don't change back."""
        load_state(self.task.student.network, checkpoint.student)
        self.position = checkpoint.position
        self.best, self.chosen_before = checkpoint.best, checkpoint.chosen_before
        if checkpoint.race is not None:
            self._use(checkpoint.race)
        self.epochs, self.setbacks = checkpoint.epochs, checkpoint.setbacks
        self._restored = checkpoint
        before = checkpoint.environment
        differences = {k: [before.get(k), v] for k, v in self.environment.items() if before.get(k) != v}
        resume = Resume(
            attempt=attempt,
            phase=self.position.phase,
            epoch=self.position.epoch + 1,
            step=self.position.step,
            bit_identical=not differences
            and self.device.type == "cpu"
            and all(resume.bit_identical for resume in checkpoint.resumes),
            differences=differences,
        )
        self.resumes = [*checkpoint.resumes, resume]

    def run(self) -> list[BestEpoch]:
        """Run all phases. Returns the best epoch, then the best epoch after each pruning.

        Each pruning works on the result of the one before it. The best epoch has the best score on the validation
        split, and may be epoch 0, the untrained student; for some tasks it is the last epoch. Raises Diverged, and
        Drained after a stop was requested.
        """
        if self._restored is None:
            self._measure_start()
            if self.spec.race:
                self._use(race(self.task, self.spec, self._before_racer, self.group))
        if self.position.phase != Phase.PRUNE:
            for phase in self.phases[self.phases.index(self.position.phase) :]:
                self._run_phase(phase)
        for number in range(max(len(self.chosen_before) - 1, 0), len(self.prunings)):
            self._run_pruning(number)
        return [*self.chosen_before, self._chosen()]

    def _score(self, measure: Callable[[], Scores]) -> Scores:
        return Scores(**self.group.from_first(lambda: asdict(measure())))

    def _measure_start(self) -> None:
        """Epoch 0 of the first phase is the untrained student or, if that is no worse, the repaired one. One whose
        output is not finite is neither."""
        network, repaired = self.task.student.network, self.selection.repaired
        self._measure_as_start()
        if repaired is not None:
            untrained = copy_of_state(network)
            load_state(network, repaired)
            if not self._measure_as_start():
                load_state(network, untrained)

    def _before_racer(self, number: int) -> None:
        """`number` candidates have raced."""
        self._drain_if_requested()
        self.observer.progress(Progress(phase=JobPhase.RACING, step=number))

    def _use(self, found: Race) -> None:
        self.race, self.spec = found, with_winner(self.spec, found)

    def _measure_as_start(self) -> bool:
        """Whether the student as it is now is the best start so far."""
        scores = self._score(self.task.preview)
        if not _are_finite(scores) or (self.best is not None and scores.value < self.best.score):
            return False
        self.best = BestEpoch(self.phases[0], 0, scores.value, copy_of_state(self.task.student.network))
        return True

    def _score_start(self) -> None:
        """Called before the first epoch is compared with the start, which was measured on fewer samples."""
        if not self.task.previews or self.epochs or self.best is None:
            return
        network = self.task.student.network
        trained = copy_of_state(network)
        load_state(network, self.best.state)
        scores = self._score(self.task.score)
        load_state(network, trained)
        self.best = replace(self.best, score=scores.value) if _are_finite(scores) else None

    def _run_phase(self, phase: Phase, first: int = 0) -> None:
        """All epochs of a phase; `first` is the number of the first one. An unstable training goes back."""
        schedule = self.spec.schedule.of(phase)
        if self.position.phase != phase:
            self.position = TrainingPosition(phase, first, 0)
        # Without the fraction: the pace of the training is taken from its steps.
        self.observer.progress(self._progress(fraction=None))
        updater = self.task.updater(phase, self.spec)
        self._begin_epoch(losses=len(updater.names))
        if self._restored is None:
            self._first_loss: float | None = None
            self._keep_good_state(copy_of_state(self.task.student.network), updater)
            if self.race is not None or self.selection.repaired is not None:
                # The race and the repair took their time, so another attempt goes on from here.
                self._checkpoint(updater)
        else:
            self._resume(updater, self._restored)
        self._cuts = cuts_of(self.setbacks, phase, first)
        while self.position.epoch < first + schedule.epochs:
            try:
                self._run_epoch(phase, self.position.epoch, self.position.epoch - first, updater)
            except Unstable as unstable:
                self._go_back(unstable, updater)
            self._checkpoint(updater)
            self._drain_if_requested()

    def _run_epoch(self, phase: Phase, epoch: int, passed: int, updater: Updater) -> None:
        """`passed` is the number of epochs since the learning rate's schedule began."""
        updater.begin_epoch()
        # Processors may round differently, and what that adds up to must not be kept.
        self.group.same_weights(self.task.student.network)
        for step in range(self.position.step, self.steps_per_epoch):
            self._run_step(phase, epoch, step, passed, updater)
            if step % STEPS_BETWEEN_FINITE_CHECKS == 0:
                self._check_finite()
            self._tell_if_due()
            self._checkpoint_if_due(updater)
        self._check_finite()
        self._end_epoch(phase, epoch, passed, updater)

    def _run_step(self, phase: Phase, epoch: int, step: int, passed: int, updater: Updater) -> None:
        schedule, seed, names = self.spec.schedule.of(phase), self.spec.seed, list(updater.names)
        step_of_phase = passed * self.steps_per_epoch + step
        progress = step_of_phase / (schedule.epochs * self.steps_per_epoch)
        samples = samples_of(self.task.views, self.samples, self.spec.schedule, seed, phase, epoch, step)
        generator = generator_of(seed, "step", phase.value, epoch, step)
        seed_globals(mix(seed, "modules", phase.value, epoch, step, *self._own_stream))
        batch = self.group.share_of(self.task.batch(samples, progress, generator))
        if step + 1 < self.steps_per_epoch:
            self.task.expect(rows_of(self.samples, self.spec.schedule, seed, phase, epoch, step + 1))
        losses = updater.step(batch, self._rate(schedule, step_of_phase))
        if step_of_phase == 0 and updater.watched is not None:
            self._first_loss = float(losses[names.index(updater.watched)])
        self._add_losses(losses, batch)
        self.position = TrainingPosition(phase, epoch, step + 1)

    def _end_epoch(self, phase: Phase, epoch: int, passed: int, updater: Updater) -> None:
        metrics = self._mean_losses(updater)
        scores = self._score(self.task.score)
        self._score_start()
        self._check_stable(metrics, scores, updater)
        metrics |= scores.metrics
        rate = self._rate(self.spec.schedule.of(phase), (passed + 1) * self.steps_per_epoch - 1)
        metrics |= {"learning_rate": rate, "seconds": time.monotonic() - self._epoch_started}
        state, supersedes = copy_of_state(self.task.student.network), self.task.supersedes(phase)
        if self.best is None or supersedes or scores.value >= self.best.score:
            self.best = BestEpoch(phase, epoch + 1, scores.value, state)
        self.epochs.append(EpochReport(phase=phase, epoch=epoch + 1, **metrics))
        self.position = TrainingPosition(phase, epoch + 1, 0)
        if supersedes or not has_collapsed(scores, self.best):
            self._keep_good_state(state, updater)
        self.observer.epoch(phase, epoch + 1, self._epochs_of(phase), self._fraction(), metrics, self.steps_per_epoch)
        self._told = time.monotonic()
        self._begin_epoch(losses=len(updater.names))

    def _run_pruning(self, number: int) -> None:
        """Prune the student that was chosen so far, and fine-tune it again.

        The pruned student counts as epoch 0: it is chosen if no epoch of the fine-tuning is better.
        """
        network, restored = self.task.student.network, self._restored
        if restored is None:
            self.chosen_before.append(self._chosen())
        load_state(network, self.chosen_before[number].state)
        self.group.same_weights(network)
        self.task.prune(self.prunings[number])
        first = number * self._epochs_of(Phase.FINE_TUNE)
        if restored is None:
            self.position = TrainingPosition(Phase.PRUNE, first, 0)
            self.best = BestEpoch(Phase.PRUNE, 0, self._score(self.task.score).value, copy_of_state(network))
        else:
            load_state(network, restored.student)
        self._run_phase(Phase.PRUNE, first)

    def _chosen(self) -> BestEpoch:
        if self.best is None:
            raise ValueError("the schedule has no epochs: give at least one phase an epoch")
        return self.best

    # --- unstable epochs ---

    def _rate(self, schedule: PhaseSchedule, step_of_phase: int) -> float:
        rate: float = learning_rate(schedule, step_of_phase, self.steps_per_epoch) / RATE_CUT**self._cuts
        return rate

    def _keep_good_state(self, student: State, updater: Updater) -> None:
        self._good = GoodState(self.position, student, copied(updater.state()))

    def _go_back(self, unstable: Unstable, updater: Updater) -> None:
        """Continue from the last good state at a lower learning rate. Raises Diverged after too many setbacks."""
        position, good = self.position, self._good
        rate = self.spec.schedule.of(position.phase).learning_rate
        setback = Setback(
            phase=position.phase,
            epoch=position.epoch + 1,
            loss=finite_or_none(unstable.loss),
            loss_before=None if self._first_loss is None else finite_or_none(self._first_loss),
            back_to=good.position.epoch,
            learning_rate_before=rate / RATE_CUT**self._cuts,
            learning_rate=rate / RATE_CUT ** (self._cuts + 1),
        )
        self.setbacks.append(setback)
        if self._cuts == MOST_SETBACKS:
            raise diverged(self.setbacks[-1 - MOST_SETBACKS :])
        log.warning(note_of(setback))
        self._cuts += 1
        load_state(self.task.student.network, good.student)
        updater.restore(copied(good.updater))
        self.position = good.position
        self.epochs = [
            epoch for epoch in self.epochs if epoch.phase != position.phase or epoch.epoch <= setback.back_to
        ]
        self._begin_epoch(losses=len(updater.names))

    def _check_finite(self) -> None:
        if not torch.isfinite(self._loss_sums).all():
            raise Unstable(math.nan)

    def _check_stable(self, metrics: Mapping[str, float], scores: Scores, updater: Updater) -> None:
        """`metrics` are the epoch's losses."""
        parameters = self.task.student.network.parameters()
        if not _are_finite(scores) or not all(bool(parameter.isfinite().all()) for parameter in parameters):
            raise Unstable(math.nan)
        if updater.watched is None or self._first_loss is None:
            return
        loss = metrics[updater.watched]
        if has_risen(loss, self._first_loss, scores, self.best):
            raise Unstable(loss)

    # --- checkpoints ---

    def _checkpoint_if_due(self, updater: Updater) -> None:
        """Called between two steps. Raises Drained after a checkpoint if a stop was requested."""
        late = time.monotonic() - self._saved > SECONDS_BETWEEN_CHECKPOINTS
        if self.group.any_wants(self.observer.stop_requested() or late):
            self._checkpoint(updater)
            self._drain_if_requested()

    def _checkpoint(self, updater: Updater) -> None:
        self.observer.checkpoint(
            Checkpoint(
                position=self.position,
                student=_state_on_cpu(self.task.student.network),
                updater=updater.state(),
                loss_sums=self._loss_sums.cpu(),
                samples_seen=self._samples_seen,
                seconds=time.monotonic() - self._epoch_started,
                best=self.best,
                good=self._good,
                first_loss=self._first_loss,
                chosen_before=self.chosen_before,
                epochs=self.epochs,
                environment=self.environment,
                selection=self.selection,
                resumes=self.resumes,
                setbacks=self.setbacks,
                race=self.race,
                cache_plan=self.task.cache_plan,
            )
        )
        self._saved = time.monotonic()

    def _drain_if_requested(self) -> None:
        if self.group.any_wants(self.observer.stop_requested()):
            raise Drained

    def _resume(self, updater: Updater, checkpoint: Checkpoint) -> None:
        updater.restore(checkpoint.updater)
        self._good, self._first_loss = checkpoint.good, checkpoint.first_loss
        if checkpoint.position.step:
            self._loss_sums, self._samples_seen = checkpoint.loss_sums.to(self.device), checkpoint.samples_seen
            self._epoch_started = time.monotonic() - checkpoint.seconds
        self._restored = None

    # --- the sums of an epoch ---

    def _begin_epoch(self, losses: int) -> None:
        """Set the sums of the epoch to zero. `losses` is the number of losses."""
        self._loss_sums = torch.zeros(losses, dtype=torch.float64, device=self.device)
        self._samples_seen = 0
        self._epoch_started = self._saved = time.monotonic()

    def _add_losses(self, losses: Tensor, batch: Batch) -> None:
        self._loss_sums += losses * batch.whole_samples
        self._samples_seen += batch.whole_samples

    def _mean_losses(self, updater: Updater) -> dict[str, float]:
        means = (self._loss_sums / max(self._samples_seen, 1)).tolist()
        named = dict(zip(updater.names, means, strict=True))
        sections = [value for name, value in named.items() if name.startswith("ir_loss_")]
        return named | ({"ir_loss": math.fsum(sections)} if sections else {})

    # --- progress ---

    def _tell_if_due(self) -> None:
        """Called between two steps. It reads the clock, and nothing that a GPU must first compute."""
        now = time.monotonic()
        if now - self._told >= SECONDS_BETWEEN_PROGRESS and self.position.step < self.steps_per_epoch:
            self.observer.progress(self._progress(self._fraction()))
            self._told = now

    def _progress(self, fraction: float | None) -> Progress:
        phase, epoch, step = self.position.phase, self.position.epoch, self.position.step
        return Progress(
            phase=JobPhase(phase.value),
            epoch=epoch,
            epochs=self._epochs_of(phase),
            step=step,
            steps=self.steps_per_epoch,
            fraction=fraction,
        )

    def _epochs_of(self, phase: Phase) -> int:
        epochs = self.spec.schedule.of(phase).epochs
        return epochs * len(self.prunings) if phase == Phase.PRUNE else epochs

    def _fraction(self) -> float:
        phases = [*self.phases, Phase.PRUNE]
        epochs = [self._epochs_of(phase) for phase in phases]
        before = sum(epochs[: phases.index(self.position.phase)])
        return (before + self.position.epoch + self.position.step / self.steps_per_epoch) / sum(epochs)


def _are_finite(scores: Scores) -> bool:
    return all(map(math.isfinite, scores.metrics.values()))


def _state_on_cpu(network: nn.Module) -> State:
    return {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
