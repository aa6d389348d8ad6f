"""Answers of the service with what a test says, and the least that is needed besides."""

from __future__ import annotations

import json
from typing import Any

from lit_spec.answers.jobs import Event, Job
from lit_spec.answers.studies import Study
from lit_spec.answers.uploads import Upload

NOW = "2026-01-02T03:04:05Z"


def make_job(**fields: Any) -> Job:
    answer: dict[str, Any] = {
        "id": "job_1",
        "name": None,
        "tags": [],
        "state": "succeeded",
        "device": "auto",
        "spec_version": 1,
        "spec": {},
        "request": {},
        "study_id": None,
        "trial": None,
        "attempt": 1,
        "failures": 0,
        "max_attempts": 3,
        "worker": None,
        "cancel_requested": False,
        "progress": None,
        "waiting": None,
        "accepted": None,
        "result": None,
        "error": None,
        "created_at": NOW,
        "started_at": None,
        "finished_at": None,
        "links": dict.fromkeys(("self", "events", "metrics", "log", "artifacts"), "/"),
    }
    return Job.read(json.dumps(answer | fields).encode())


def make_study(**fields: Any) -> Study:
    counts = ("planned", "queued", "running", "succeeded", "failed", "cancelled", "stopped")
    answer: dict[str, Any] = {
        "id": "study_1",
        "name": None,
        "tags": [],
        "kind": "compare",
        "state": "succeeded",
        "request": {},
        "spec": {},
        "cancel_requested": False,
        "round": 1,
        "progress": dict.fromkeys(counts, 0),
        "choice": None,
        "best_job": None,
        "next": [],
        "table": None,
        "error": None,
        "created_at": NOW,
        "finished_at": None,
        "links": dict.fromkeys(("self", "table", "jobs"), "/"),
    }
    return Study.read(json.dumps(answer | fields).encode())


def make_upload(**fields: Any) -> Upload:
    answer: dict[str, Any] = {
        "id": "upl_1",
        "kind": "teacher",
        "filename": "teacher.pt",
        "size": 1,
        "received": 1,
        "sha256": None,
        "state": "complete",
        "architecture": None,
        "teacher_weights": None,
        "inspection_state": "done",
        "inspection": None,
        "inspection_error": None,
        "created_at": NOW,
        "completed_at": NOW,
    }
    return Upload.read(json.dumps(answer | fields).encode())


def make_event(**fields: Any) -> Event:
    answer = {"seq": 1, "attempt": 1, "type": "epoch", "data": {}, "created_at": NOW}
    return Event.read(json.dumps(answer | fields).encode())
