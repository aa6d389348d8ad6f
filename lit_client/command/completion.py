"""Completion of ids in the shell, from the service, if it answers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from lit_client.errors import LitError
from lit_client.synchronous.client import Client

MOST = 50
SECONDS = 2.0
Completion = tuple[str, str]
"""An id, and what it is."""


def complete_job(incomplete: str) -> list[Completion]:
    return _completed(
        incomplete, lambda client: ((job.id, f"{job.state} {job.name or ''}") for job in client.jobs(limit=MOST))
    )


def complete_study(incomplete: str) -> list[Completion]:
    return _completed(
        incomplete, lambda client: ((study.id, f"{study.kind} {study.state}") for study in client.studies(limit=MOST))
    )


def complete_upload(incomplete: str) -> list[Completion]:
    return _completed(incomplete, lambda client: ((one.id, one.filename) for one in client.uploads(limit=MOST)))


def complete_webhook(incomplete: str) -> list[Completion]:
    return _completed(incomplete, lambda client: ((one.id, one.url) for one in client.webhooks(limit=MOST)))


def _completed(incomplete: str, find: Callable[[Client], Iterable[Completion]]) -> list[Completion]:
    """Those that begin so. A shell shows no errors: without an answer there are none."""
    try:
        with Client(retries=0, timeout=SECONDS) as client:
            return [found for found in islice(find(client), MOST) if found[0].startswith(incomplete)]
    except LitError:
        return []
