"""The training of a student: the LIT phase, then fine-tuning, epoch by epoch, resumable at any step."""

from __future__ import annotations

import hashlib
import math
import time
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lit_core.checkpoint import Best, Checkpoint, Position, State
from lit_core.data import Dataset, augment
from lit_core.learning_rate import learning_rate
from lit_core.losses import FineTuneLoss, LitLoss, Losses
from lit_core.measure import accuracy
from lit_core.sections import SectionedNetwork
from lit_core.spec import JobSpec, Part, Phase, PhaseSchedule, Precision, Split

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
    """Trains `student` (on `device`) under `teacher`. `run` returns the best epoch by validation accuracy."""

    def __init__(
        self,
        spec: JobSpec,
        teacher: SectionedNetwork,
        student: nn.Module,
        dataset: Dataset,
        device: torch.device,
        observer: Observer,
        *,
        teacher_accuracy: float,
        environment: dict[str, str],
    ) -> None:
        self.spec = spec
        self.teacher = teacher
        self.student = SectionedNetwork(student, teacher.layout)
        self.dataset = dataset
        self.device = device
        self.observer = observer
        self.teacher_accuracy = teacher_accuracy
        self.environment = environment
        self.arrays = dataset.splits[Split.TRAIN]
        self.steps_per_epoch = _steps(len(self.arrays.y), spec.schedule.batch_size)
        self.position = Position(PHASES[0], 0, 0)
        self.best: Best | None = None
        self.epochs: list[dict[str, Any]] = []
        self.resumes: list[dict[str, Any]] = []
        self._sections = len(teacher.sections)
        self._restored: dict[str, Any] | None = None
        self._begin_epoch()

    def restore(self, checkpoint: Checkpoint, attempt: int) -> None:
        """Go on where the checkpoint stands. A different environment is noted: bits may differ then."""
        self.student.network.load_state_dict(checkpoint.student)
        self.position = checkpoint.position
        self.best = checkpoint.best
        self.epochs = checkpoint.epochs
        self._sums, self._seen = checkpoint.sums.to(self.device), checkpoint.seen
        self._epoch_started = time.monotonic() - checkpoint.seconds
        self._restored = checkpoint.optimizer
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

    def run(self) -> Best:
        """Raises Diverged, and Drained after a stop was asked for."""
        for phase in PHASES[PHASES.index(self.position.phase) :]:
            self._run_phase(phase)
        if self.best is None:
            raise ValueError("the schedule has no epoch in either phase")
        return self.best

    def _run_phase(self, phase: Phase) -> None:
        schedule = self._schedule(phase)
        if self.position.phase != phase:
            self.position = Position(phase, 0, 0)
        self.student.train([Part(part) for part in schedule.frozen])
        optimizer = self._optimizer()
        loss = self._loss(phase)
        for epoch in range(self.position.epoch, schedule.epochs):
            self._run_epoch(phase, epoch, schedule, optimizer, loss)

    def _run_epoch(
        self,
        phase: Phase,
        epoch: int,
        schedule: PhaseSchedule,
        optimizer: torch.optim.SGD,
        loss: LitLoss | FineTuneLoss,
    ) -> None:
        self.student.train([Part(part) for part in schedule.frozen])
        order = _order(len(self.arrays.y), self.spec.seed, phase, epoch)
        rate = schedule.learning_rate
        for step in range(self.position.step, self.steps_per_epoch):
            rate = learning_rate(schedule, epoch * self.steps_per_epoch + step, self.steps_per_epoch)
            x, labels = self._batch(order, phase, epoch, step)
            self._step(x, labels, rate, optimizer, loss)
            self.position = Position(phase, epoch, step + 1)
            if step % STEPS_BETWEEN_FINITE_CHECKS == 0:
                self._check_finite()
            self._pause(optimizer)
        self._check_finite()
        self._end_epoch(phase, epoch, schedule, rate)
        self._checkpoint(optimizer)
        self._drain()

    def _step(
        self, x: Tensor, labels: Tensor, rate: float, optimizer: torch.optim.SGD, loss: LitLoss | FineTuneLoss
    ) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate
        half = self.spec.precision == Precision.BFLOAT16
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            losses = loss(self.teacher, self.student, x, labels)
        optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        self._sums += self._row(losses) * len(labels)
        self._seen += len(labels)

    def _batch(self, order: Tensor, phase: Phase, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        size = self.spec.schedule.batch_size
        index = order[step * size : (step + 1) * size]
        x = self.dataset.preprocessing.apply(self.arrays.x[index].to(self.device))
        generator = torch.Generator().manual_seed(_mix(self.spec.seed, "augment", phase.value, epoch, step))
        return augment(x, self.dataset.augmentation, generator), self.arrays.y[index].to(self.device)

    def _end_epoch(self, phase: Phase, epoch: int, schedule: PhaseSchedule, rate: float) -> None:
        network = self.student.network
        student_accuracy = accuracy(network, self.dataset, Split.VALIDATION, self.device).top1
        metrics = self._means(phase)
        metrics |= {
            "student_accuracy": student_accuracy,
            "teacher_accuracy": self.teacher_accuracy,
            "learning_rate": rate,
            "seconds": time.monotonic() - self._epoch_started,
        }
        if self.best is None or student_accuracy >= self.best.accuracy:
            state = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
            self.best = Best(phase, epoch + 1, student_accuracy, state)
        self.epochs.append({"phase": phase.value, "epoch": epoch + 1, **metrics})
        self.position = Position(phase, epoch + 1, 0)
        self.observer.epoch(phase, epoch + 1, schedule.epochs, self._fraction(), metrics)
        self._begin_epoch()

    def _pause(self, optimizer: torch.optim.SGD) -> None:
        """Between two steps: a checkpoint when it is time for one or a stop is asked for."""
        if self.observer.stop_requested() or time.monotonic() - self._saved > SECONDS_BETWEEN_CHECKPOINTS:
            self._checkpoint(optimizer)
            self._drain()

    def _drain(self) -> None:
        if self.observer.stop_requested():
            raise Drained

    def _checkpoint(self, optimizer: torch.optim.SGD) -> None:
        self.observer.checkpoint(
            Checkpoint(
                position=self.position,
                student=_to_cpu(self.student.network.state_dict()),
                optimizer=optimizer.state_dict(),
                sums=self._sums.cpu(),
                seen=self._seen,
                seconds=time.monotonic() - self._epoch_started,
                best=self.best,
                epochs=self.epochs,
                environment=self.environment,
                resumes=self.resumes,
            )
        )
        self._saved = time.monotonic()

    def _optimizer(self) -> torch.optim.SGD:
        schedule = self.spec.schedule
        optimizer = torch.optim.SGD(
            [p for p in self.student.network.parameters() if p.requires_grad],
            lr=0.0,
            momentum=schedule.momentum,
            nesterov=schedule.nesterov,
            weight_decay=schedule.weight_decay,
        )
        if self._restored is not None and (self.position.epoch, self.position.step) != (0, 0):
            optimizer.load_state_dict(self._restored)
        self._restored = None
        return optimizer

    def _loss(self, phase: Phase) -> LitLoss | FineTuneLoss:
        spec = self.spec
        if phase == Phase.FINE_TUNE:
            return FineTuneLoss(spec.alpha, spec.tau)
        frozen = [Part(part) for part in spec.schedule.lit.frozen]
        return LitLoss(spec.alpha, spec.beta, spec.tau, spec.ir_loss, frozen)

    def _schedule(self, phase: Phase) -> PhaseSchedule:
        return self.spec.schedule.lit if phase == Phase.LIT else self.spec.schedule.fine_tune

    def _fraction(self) -> float:
        done = self.position.epoch + (self.spec.schedule.lit.epochs if self.position.phase == Phase.FINE_TUNE else 0)
        return done / (self.spec.schedule.lit.epochs + self.spec.schedule.fine_tune.epochs)

    def _begin_epoch(self) -> None:
        self._sums = torch.zeros(2 + self._sections, dtype=torch.float64, device=self.device)
        self._seen = 0
        self._epoch_started = self._saved = time.monotonic()

    def _row(self, losses: Losses) -> Tensor:
        """One batch's losses as a row: total, KD, IR per section; NaN never stands for a loss that isn't there."""
        absent = torch.zeros((), device=self.device)
        ir = losses.ir or [absent] * self._sections
        kd = losses.kd if losses.kd is not None else absent
        return torch.stack([losses.total, kd, *ir]).detach().double()

    def _means(self, phase: Phase) -> dict[str, float]:
        total, kd, *ir = (self._sums / max(self._seen, 1)).tolist()
        means = {"loss": total}
        if phase == Phase.FINE_TUNE or self.spec.beta > 0:
            means["kd_loss"] = kd
        if phase == Phase.LIT and self.spec.beta < 1:
            means["ir_loss"] = math.fsum(ir)
            means |= {f"ir_loss_{n}": value for n, value in enumerate(ir, start=1)}
        return means

    def _check_finite(self) -> None:
        if not torch.isfinite(self._sums).all():
            position = self.position
            raise Diverged(f"the loss is no longer finite in epoch {position.epoch + 1} of the {position.phase} phase")


def _steps(samples: int, batch_size: int) -> int:
    """Batches an epoch. A last batch of one sample is left out: BatchNorm needs two."""
    whole, rest = divmod(samples, batch_size)
    return whole + (rest > 1)


def _order(samples: int, seed: int, phase: Phase, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(_mix(seed, "order", phase.value, epoch))
    return torch.randperm(samples, generator=generator)


def _mix(*parts: Any) -> int:
    """One seed from several, so that no two streams are shifted copies of each other."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _to_cpu(state: State) -> State:
    return {name: tensor.detach().cpu() for name, tensor in state.items()}
