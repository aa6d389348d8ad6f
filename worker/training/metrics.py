"""Numbers of one training worker: its attempts, its lease and what its trainers say."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, Summary

from jobs.exposition import new_registry
from lit_spec import Phase
from lit_spec.trainer.messages import EpochDone, Started, TrainerMessage
from worker.host.metrics import ready_gauge

QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
"""Seconds: transactions."""
COPIES = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900)
"""Seconds: files between storage and this machine."""
EPOCHS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600)
"""Seconds: from tiny data sets to ImageNet."""
NAME_LENGTH = 100
RESULTS = ("succeeded", "failed", "cancelled", "released", "lost", "expired", "stale")
"""The names of results of attempts."""


class TrainingMetrics:
    """Made with the process, so that all counters begin at its start."""

    def __init__(self) -> None:
        self.registry = new_registry("training-worker")
        self.ready = ready_gauge(self.registry)
        self.busy = self._gauge("lit_worker_busy", "1 while the worker has a job, else 0.")
        self.claim_seconds = self._histogram(
            "lit_claim_seconds", "Time that asking the ledger for a job took, whether there was one or not.", QUICK
        )
        self.attempts = Counter(
            "lit_attempts",
            "Attempts that this worker has ended, by result (stale: the job belongs to another attempt).",
            ["result"],
            registry=self.registry,
        )
        self.heartbeats = Counter(
            "lit_heartbeats",
            "Renewals of leases, by result: renewed, failed (ledger out of reach), stale.",
            ["result"],
            registry=self.registry,
        )
        self.leases_lost = Counter(
            "lit_leases_lost",
            "Leases that this worker lost: expired (no renewal in time), stale (another attempt has the job).",
            ["reason"],
            registry=self.registry,
        )
        self.prepare_seconds = self._histogram("lit_prepare_seconds", "Time to fill a job folder.", COPIES)
        self.trainer_starts = Counter(
            "lit_trainer_starts", "Trainers that were started, by device.", ["device"], registry=self.registry
        )
        self.trainer_memory = self._gauge(
            "lit_trainer_memory_bytes", "Memory of the trainer's processes without mapped files; 0 without a trainer."
        )
        self.trainer_peak_memory = self._gauge(
            "lit_trainer_peak_memory_bytes", "The most of it that was seen in the current or last trainer."
        )
        self._peak = 0
        self._device = Gauge(
            "lit_trainer_device_info",
            "Always 1; the label names the device of the current or last trainer, as a GPU's model.",
            ["name"],
            registry=self.registry,
        )
        self._epochs = Counter("lit_trainer_epochs", "Epochs that were trained.", ["phase"], registry=self.registry)
        self._epoch_seconds = Histogram(
            "lit_trainer_epoch_seconds", "Time of an epoch.", ["phase"], buckets=EPOCHS, registry=self.registry
        )
        self._steps = Counter(
            "lit_trainer_steps", "Optimisation steps of these epochs.", ["phase"], registry=self.registry
        )
        self._step_seconds = Summary(
            "lit_trainer_step_seconds",
            "Time of a step: an epoch's time, validation included, divided by its steps.",
            ["phase"],
            registry=self.registry,
        )
        self.checkpoint_seconds = self._histogram("lit_checkpoint_seconds", "Time to store a checkpoint.", COPIES)
        self.checkpoint_bytes = Counter(
            "lit_checkpoint_bytes", "Bytes of the checkpoints that were stored.", registry=self.registry
        )
        self.store_seconds = self._histogram("lit_output_seconds", "Time to store the output of a job.", COPIES)
        self.store_bytes = Counter("lit_output_bytes", "Bytes of the outputs that were stored.", registry=self.registry)
        self._begin()

    def _begin(self) -> None:
        """Let counters begin at 0 for each label that they may have, so that the first increase shows in rates."""
        for result in RESULTS:
            self.attempts.labels(result)
        for result in ("renewed", "failed", "stale"):
            self.heartbeats.labels(result)
        for reason in ("expired", "stale"):
            self.leases_lost.labels(reason)
        for device in ("cpu", "cuda"):
            self.trainer_starts.labels(device)
        for phase in Phase:
            for metric in (self._epochs, self._epoch_seconds, self._steps, self._step_seconds):
                metric.labels(phase.value)

    def _gauge(self, name: str, help: str) -> Gauge:
        return Gauge(name, help, registry=self.registry)

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, help, buckets=buckets, registry=self.registry)

    def trainer_started(self, device: str) -> None:
        self.trainer_starts.labels(device).inc()
        self._peak = 0
        self.trainer_peak_memory.set(0)

    def memory(self, used: int) -> None:
        """Bytes that the trainer has in memory now."""
        self.trainer_memory.set(used)
        self._peak = max(self._peak, used)
        self.trainer_peak_memory.set(self._peak)

    def trainer_said(self, message: TrainerMessage) -> None:
        match message:
            case Started(data={"environment": {"device": str(device)}}):
                self._device.clear()
                self._device.labels(device[:NAME_LENGTH]).set(1)
            case EpochDone(phase=phase, metrics=metrics, steps=steps):
                self._epochs.labels(phase.value).inc()
                seconds = metrics.get("seconds")
                if seconds is not None:
                    self._epoch_seconds.labels(phase.value).observe(seconds)
                if steps:
                    self._steps.labels(phase.value).inc(steps)
                if steps and seconds is not None:
                    self._step_seconds.labels(phase.value).observe(seconds / steps)
