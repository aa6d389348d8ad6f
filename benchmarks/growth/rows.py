"""Generated rows of a ledger, as lines for COPY. The same sizes always give the same rows."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import cached_property, lru_cache

from benchmarks.growth.sizes import METRICS_PER_EPOCH, OWNERS, WORKERS, Sizes
from benchmarks.inspected_teacher import INSPECTION
from jobs.ids import LENGTH
from jobs.ledger.attempts import Artifact
from lit_spec import SPEC_VERSION, JobRequest, resolve
from lit_spec.requests.study import STUDY_VERSION

DEVICES = ("cpu", "cuda", "auto", "cpu", "cuda")
ENDS = ("succeeded",) * 17 + ("failed", "failed", "cancelled")
EPOCHS = (1, 2, 2, 3, 4, 5, 6, 9)
"""How jobs differ in their numbers of epochs; scaled to the mean."""
NAMES = ("nightly", None, "ablation", None, None)
"""Every fifth job is a `nightly`: a name with thousands of jobs. `ablation` gets a number, and is shared by a few."""
TRIALS = 20
FLOOD = 0.3
"""Share of the queue that the first owner filled before anybody else came."""
METRICS = (
    *("student_accuracy", "teacher_accuracy", "student_loss", "teacher_loss", "loss", "ir_loss", "kd_loss"),
    *("learning_rate", "seconds", "images_per_second"),
)
assert len(METRICS) == METRICS_PER_EPOCH
NULL = r"\N"
EPOCH_SECONDS = 30


def owner(number: int) -> str:
    return f"team-{number:03}"


def upload_owner(number: int) -> str:
    return _owner_in_turn(number)


def _owner_in_turn(number: int) -> str:
    return owner(0) if number % 10 < 4 else owner(1 + number % (OWNERS - 1))


def key(prefix: str, number: int) -> str:
    """An id as the ledger makes them: without an order."""
    digest = hashlib.blake2b(f"{prefix}{number}".encode(), digest_size=17).digest()
    return f"{prefix}_{base64.b32encode(digest).decode().lower()[:LENGTH]}"


@dataclass(frozen=True)
class Rows:
    """All rows, by job. Jobs are numbered by their age: finished ones, then running ones, then queued ones."""

    sizes: Sizes
    until: datetime
    """When the newest job was made."""

    @cached_property
    def step(self) -> timedelta:
        """Between two jobs: the oldest one is a year old."""
        return timedelta(days=365) / self.sizes.jobs

    def made_at(self, number: int) -> datetime:
        return self.until - (self.sizes.jobs - number) * self.step

    def owner(self, number: int) -> str:
        """The first owner has four of ten jobs, and the oldest queued ones; the other owners take turns."""
        oldest_queued = number - self.sizes.finished - WORKERS
        if 0 <= oldest_queued < self.sizes.queued * FLOOD:
            return owner(0)
        study = self.study(number)
        return _owner_in_turn(number if study is None else study)

    def state(self, number: int) -> str:
        if number < self.sizes.finished:
            return ENDS[number * 7 % len(ENDS)]
        return "running" if number < self.sizes.finished + WORKERS else "queued"

    def epochs(self, number: int) -> int:
        if self.state(number) == "queued":
            return 0
        mean = sum(EPOCHS) / len(EPOCHS)
        return max(1, round(EPOCHS[number % len(EPOCHS)] * self.sizes.epochs_per_job / mean))

    def study(self, number: int) -> int | None:
        """The number of the study of a job: of each 400 jobs, 20 in a row are the trials of one."""
        study, place = divmod(number, 400)
        return study if place < TRIALS and self.state(number) not in {"queued", "running"} else None

    def tags(self, number: int) -> list[str]:
        """One that every second job has, one that each of a hundred has, and one that is rare."""
        return ["prod"] * (number % 2) + [f"area-{number % 100}"] + ["paper"] * (number % 997 == 0)

    def job(self, number: int) -> str:
        state, made, device = self.state(number), self.made_at(number), DEVICES[number % len(DEVICES)]
        name, study = NAMES[number // 3 % len(NAMES)], self.study(number)
        succeeded, claimed = state == "succeeded", state != "queued"
        epochs = self.epochs(number)
        ended = made + timedelta(seconds=20 + EPOCH_SECONDS * epochs)
        request, spec = documents(device, number % 16)
        at = key("job", number)
        columns = (
            at,
            self.owner(number),
            name and (f"{name}-{number // 50}" if name == "ablation" else name),
            "{" + ",".join(self.tags(number)) + "}",
            state,
            device,
            SPEC_VERSION,
            request,
            spec,
            int(claimed),
            3,
            None if study is None else key("study", study),
            None if study is None else json.dumps({"seed": number % 400}),
            None if study is None else 1,
            f"worker-{number % WORKERS:02}" if claimed else None,
            ("cuda" if device == "cuda" else "cpu") if claimed else None,
            self.until + timedelta(days=1) if state == "running" else None,
            json.dumps({"phase": "lit", "epoch": epochs, "epochs": epochs, "fraction": 0.9}) if claimed else None,
            RESULT if succeeded else None,
            json.dumps({"type": "trainer-crashed", "detail": "signal 9"}) if state == "failed" else None,
            json.dumps([asdict(file) for file in artifacts(at)]) if succeeded else None,
            2_400_000 if succeeded else 0,
            3 + epochs if claimed else 1,
            5 + epochs,
            made,
            made + timedelta(seconds=10) if claimed else None,
            ended if state not in {"queued", "running"} else None,
        )
        return line(columns)

    def events(self, number: int) -> Iterator[str]:
        job, made, state = key("job", number), self.made_at(number), self.state(number)
        yield line((job, 1, 0, "queued", "{}", made))
        if state == "queued":
            return
        claimed = {"worker": f"worker-{number % WORKERS:02}", "device": "cpu", "resumes": False}
        yield line((job, 2, 1, "claimed", json.dumps(claimed), made + timedelta(seconds=10)))
        epochs = self.epochs(number)
        for epoch in range(1, epochs + 1):
            at = made + timedelta(seconds=10 + EPOCH_SECONDS * epoch)
            yield line((job, 2 + epoch, 1, "epoch", epoch_event(epoch, epochs), at))
        if state != "running":
            at = made + timedelta(seconds=20 + EPOCH_SECONDS * epochs)
            yield line((job, 3 + epochs, 1, state, json.dumps({"accepted": None}), at))

    def metrics(self, number: int) -> Iterator[str]:
        job, epochs = key("job", number), self.epochs(number)
        for epoch in range(1, epochs + 1):
            phase = "lit" if epoch <= (epochs + 1) // 2 else "fine_tune"
            yield line((job, phase, epoch, epoch_values(epoch), 1))

    def files(self, number: int) -> str | None:
        """Its row in `job_files`, which a trigger adds when a job finishes; these are born finished."""
        if self.state(number) in {"queued", "running"}:
            return None
        ended = self.made_at(number) + timedelta(seconds=20 + EPOCH_SECONDS * self.epochs(number))
        return line((key("job", number), ended, number % 50 == 0, None))

    def used(self, number: int) -> str:
        """Its row in `job_uploads`."""
        return line((key("job", number), key("upl", number % self.sizes.uploads)))

    def idempotency(self, number: int) -> str | None:
        """Keys of jobs of the last week."""
        if self.until - self.made_at(number) > timedelta(days=7):
            return None
        return line((self.owner(number), f"key-{number}", "0" * 64, key("job", number), self.made_at(number)))

    def audit(self, number: int) -> str:
        action = "job.delete" if number % 500 == 0 else "job.create"
        entry = (key("aud", number), self.made_at(number), self.owner(number), f"key_{number % 200}")
        return line((*entry, action, "job", key("job", number), "done", key("req", number)))

    def upload(self, number: int) -> str:
        at = self.until - timedelta(days=365) + number * timedelta(days=365) / self.sizes.uploads
        named = (key("upl", number), upload_owner(number), "teacher", "teacher.safetensors", 1_200_000, 1_200_000)
        return line((*named, f"{number:064}", "complete", "done", INSPECTED, at, at, at))

    def study_row(self, number: int) -> str:
        made, tags = self.made_at(number * 400), "{prod," + f"area-{number % 100}" + "}"
        spec = json.dumps({"kind": "compare", "job": json.loads(documents("cpu", 0)[0])})
        head = (key("study", number), _owner_in_turn(number), "nightly" if number % 2 else None, tags, "compare")
        result = json.dumps({"choice": {"arm": "lit"}, "best_job": key("job", number * 400), "table": {}})
        ended = made + timedelta(hours=1)
        return line((*head, "succeeded", STUDY_VERSION, spec, spec, TRIALS, TRIALS, result, 22, made, ended))

    def message(self, number: int) -> str:
        """One for a webhook, delivered unless it is among the newest."""
        waits = number >= self.sizes.messages
        made = self.until - timedelta(days=30) * (1 - number / (self.sizes.messages + self.sizes.waiting_messages + 1))
        state = "pending" if waits else "dead" if number % 100 == 0 else "delivered"
        hook = number % OWNERS
        data = json.dumps({"id": key("job", number), "state": "succeeded", "tags": ["prod"], "attempt": 1})
        return line(
            (
                key("msg", number),
                key("whk", hook),
                owner(hook),
                "job.succeeded",
                data,
                state,
                made if waits else None,
                made,
            )
        )


@lru_cache
def documents(device: str, variant: int) -> tuple[str, str]:
    """A request and its specification, as JSON."""
    asked = {
        "teacher": key("upl", variant),
        "dataset": {"builtin": "digits"},
        "student": {"depth": 14 + 6 * (variant % 3)},
        "device": device,
        "seed": variant,
    }
    request = JobRequest.model_validate(asked)
    return json.dumps(asked), resolve(request, INSPECTION).model_dump_json()


@lru_cache(4096)
def epoch_event(epoch: int, epochs: int) -> str:
    done = {"phase": "lit", "epoch": epoch, "epochs": epochs, "fraction": epoch / epochs}
    return json.dumps({**done, "metrics": json.loads(epoch_values(epoch))})


@lru_cache(4096)
def epoch_values(epoch: int) -> str:
    return json.dumps({name: round(1 / (epoch + place) + place / 7, 12) for place, name in enumerate(METRICS)})


def artifacts(job: str) -> list[Artifact]:
    names = ("student.safetensors", "student.onnx", "report.json", "bundle.zip")
    return [Artifact(name, f"jobs/{job}/1/{name}", 600_000, "0" * 64) for name in names]


def line(values: tuple[object, ...]) -> str:
    """In COPY's text format. The generated texts have no backslashes and no tabs."""
    return "\t".join([NULL if value is None else str(value) for value in values]) + "\n"


RESULT = json.dumps(
    {
        "accepted": None,
        "selected": {"phase": "fine_tune", "epoch": 3},
        "seconds": 180.5,
        "teacher": {"accuracy": 0.981, "parameters": 300_000, "flops": 41_000_000},
        "student": {"accuracy": 0.979, "parameters": 120_000, "flops": 17_000_000, "blocks": [2, 2, 2]},
        "latency": [{"batch": batch, "teacher": 1.5 * batch, "student": 0.7 * batch} for batch in (1, 8, 32, 128)],
        "exports": [
            {"format": name, "verified": True, "difference": 1e-6} for name in ("onnx", "torch", "safetensors")
        ],
        "environment": {"python": "3.11", "torch": "2.14", "platform": "linux", "threads": 2, "device": "cpu"},
        "classes": [{"name": str(n), "precision": 0.98, "recall": 0.97, "support": 36} for n in range(10)],
    }
)
INSPECTED = INSPECTION.model_dump_json()
