"""Numbers of one inspecting worker."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from jobs.exposition import new_registry
from lit_spec.states import UploadKind
from worker.host.metrics import ready_gauge

SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class InspectionMetrics:
    def __init__(self) -> None:
        self.registry = new_registry("inspecting-worker")
        self.ready = ready_gauge(self.registry)
        self.inspections = Counter(
            "lit_inspections",
            "Inspections, by kind of upload and result: done, refused (the file is at fault), given-back (the worker "
            "is at fault, or stops).",
            ["kind", "result"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "lit_inspection_seconds",
            "Time of an inspection, with its copies from and to storage.",
            ["kind"],
            buckets=SECONDS,
            registry=self.registry,
        )
        for kind in UploadKind:
            self.seconds.labels(kind.value)
            for result in ("done", "refused", "given-back"):
                self.inspections.labels(kind.value, result)
