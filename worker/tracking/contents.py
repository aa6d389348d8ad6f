"""What a run says about its job: parameters, tags, metrics and a description, within MLflow's limits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jobs.database.models import Event, Job
from lit_spec import Phase, Schedule
from lit_spec.states import JobState

MOST_NAME = 250
MOST_VALUE = 500
"""Characters of a parameter's value. Servers before MLflow 2.8 take no more."""
MOST_TAG = 5000
DESCRIPTION_TAG = "mlflow.note.content"
NAME_TAG = "mlflow.runName"
JOB_TAG = "lit.job_id"
OWNER_TAG = "lit.owner"
SUMMARY_PARTS = ("teacher", "student", "baselines", "ratios")
"""The parts of a result whose numbers become metrics of the run."""
STATUSES = {
    JobState.QUEUED: "SCHEDULED",
    JobState.RUNNING: "RUNNING",
    JobState.SUCCEEDED: "FINISHED",
    JobState.FAILED: "FAILED",
    JobState.CANCELLED: "KILLED",
}
"""The status of a run, by the state of its job."""

_NOT_IN_NAMES = re.compile(r"[^\w.\- /]", re.ASCII)


@dataclass(frozen=True)
class Value:
    """One value of a metric. Equal ones are the same to a tracking server, so that they may be sent twice."""

    name: str
    value: float
    step: int
    at: datetime


def name_of(name: str) -> str:
    """The name as one that MLflow takes: letters, digits and `_.-/ `, not too many."""
    return _NOT_IN_NAMES.sub("_", name)[:MOST_NAME]


def shortened(value: str, most: int) -> str:
    return value if len(value) <= most else f"{value[: most - 1]}…"


def parameters(spec: Mapping[str, Any]) -> dict[str, str]:
    """A job's specification, flat: {"schedule.lit.epochs": "26"}. Lists are JSON; what is null is left out."""
    return {name_of(name): shortened(_as_text(value), MOST_VALUE) for name, value in _flat(spec) if value is not None}


def tags(job: Job, study: str | None, version: str, own: Mapping[str, str]) -> dict[str, str]:
    """`own` are the request's; `study` is the name of the job's study."""
    known = {
        JOB_TAG: job.id,
        OWNER_TAG: job.owner,
        "lit.version": version,
        "lit.tags": ", ".join(job.tags) or None,
        "lit.study_id": job.study_id,
        "lit.study": study,
        "lit.trial": None if job.trial is None else json.dumps(job.trial),
    }
    return dict(own) | {name: shortened(value, MOST_TAG) for name, value in known.items() if value}


def run_name(job: Job, study: str | None, asked: str | None) -> str:
    if asked is not None:
        return asked
    if job.trial is None:
        return job.name or job.id
    values = ", ".join(f"{name} {value}" for name, value in job.trial.items())
    return shortened(f"{study or job.name or job.study_id}: {values}", MOST_NAME)


def global_epoch(schedule: Schedule, phase: str, epoch: int) -> int:
    """An epoch of a phase, counted through all phases from 1."""
    return schedule.epochs_before(Phase(phase)) + epoch


def values_of(event: Event, schedule: Schedule, newest: int) -> list[Value]:
    """The metrics of an event. An epoch up to `newest`, which a later attempt or a setback repeats, has none."""
    match event.type:
        case "epoch":
            step = global_epoch(schedule, event.data["phase"], event.data["epoch"])
            return list(_values(event.data["metrics"], "", step, event.created_at)) if step > newest else []
        case "teacher_measured":
            return list(_values(event.data, "teacher_before.", 0, event.created_at))
        case "student_measured":
            number = event.data["number"]
            described = {name: value for name, value in event.data.items() if name not in ("number", "students")}
            return list(_values(described, "planned.", number, event.created_at))
    return []


def tags_of(event: Event) -> dict[str, str]:
    """What an event changes in the tags."""
    match event.type:
        case "claimed":
            return {"lit.attempt": str(event.attempt)}
        case "student_chosen":
            return {"lit.student": shortened(json.dumps(event.data), MOST_TAG)}
        case "failed" | "lost":
            return {"lit.error": shortened(event.data["error"]["detail"], MOST_TAG)}
    return {}


def summary_values(job: Job) -> list[Value]:
    """The numbers of a succeeded job's result: `student.accuracy.test`, `ratios.parameters`."""
    if job.result is None or job.finished_at is None:
        return []
    parts: dict[str, Any] = {name: job.result[name] for name in SUMMARY_PARTS if isinstance(job.result.get(name), dict)}
    parts |= {name: value for name, value in job.result.items() if name in ("accuracy_drop", "seconds", "accepted")}
    return list(_values(parts, "", 0, job.finished_at))


def description(job: Job, public_url: str | None) -> str:
    """The run's description, as Markdown: a link to the job, and what became of it."""
    named = f"**{_escaped(job.name)}**, " if job.name else ""
    link = f"[{job.id}]({public_url.rstrip('/')}/v1/jobs/{job.id})" if public_url else f"`{job.id}`"
    lines = [f"{named}job {link} of LIT: {job.state}."]
    if job.error is not None:
        lines.append(f"{job.error['type']}: {_escaped(job.error['detail'])}")
    if job.result is not None:
        lines += [*_table(job.result), *(f"- {_escaped(note)}" for note in job.result.get("notes", []))]
    return shortened("\n\n".join(part for part in ("\n".join(lines[:1]), "\n".join(lines[1:])) if part), MOST_TAG)


def _table(result: Mapping[str, Any]) -> list[str]:
    networks = [result.get(name) for name in ("teacher", "student")]
    rows = [
        (name, [_at(network, path) for network in networks])
        for name, path in (
            ("depth", ("depth",)),
            ("parameters", ("parameters",)),
            ("accuracy (test), %", ("accuracy", "test")),
            ("agreement (test), %", ("agreement", "test")),
            ("latency of one sample (p50), ms", ("latency", "batch_1", "p50_ms")),
        )
    ]
    shown = [(name, found) for name, found in rows if any(value is not None for value in found)]
    if not shown:
        return []
    lines = [" | ".join([name, *("" if value is None else f"{value:g}" for value in found)]) for name, found in shown]
    return ["|  | teacher | student |", "|---|---|---|", *(f"| {line} |" for line in lines), ""]


def _at(value: Any, path: Iterable[str]) -> float | None:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if _is_number(value) else None


def _escaped(text: str | None) -> str:
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join((text or "").split()))


def _values(data: Mapping[str, Any], prefix: str, step: int, at: datetime) -> Iterator[Value]:
    for name, value in _flat(data):
        if isinstance(value, bool) or _is_number(value):
            yield Value(name_of(f"{prefix}{name}"), float(value), step, at)


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested objects, with the names on the way to them."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
