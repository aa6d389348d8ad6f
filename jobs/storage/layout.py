"""Where everything lies in storage. Nothing else puts keys together; docs/architecture.md lists them.

Storage has no WHERE, so everything that an attempt stores lies under its own number.
"""

from __future__ import annotations

from lit_spec.trainer.folder import CHECKPOINT_FILE, LOG_FILE, OUTPUT_FOLDER, TEACHER_FILE

TOP_FOLDERS = ("uploads", "jobs", "markers")


def upload_prefix(upload_id: str) -> str:
    """Everything of one upload."""
    return f"uploads/{upload_id}/"


def upload_data(upload_id: str) -> str:
    """The file as it came."""
    return f"{upload_prefix(upload_id)}data"


def inspected_teacher(upload_id: str, sha256: str | None) -> str:
    """A teacher that an inspection found in the upload. None: the only one, which an older version of LIT has stored.

    The name is that of the content, so that another inspection doesn't change the teacher of a job.
    """
    if sha256 is None:
        return f"{upload_prefix(upload_id)}{TEACHER_FILE}"
    return f"{upload_prefix(upload_id)}teachers/{sha256}.safetensors"


def job_prefix(job_id: str) -> str:
    """Everything of one job, all attempts included."""
    return f"jobs/{job_id}/"


def checkpoint(job_id: str, attempt: int) -> str:
    """The newest checkpoint of an attempt."""
    return f"{_attempt_prefix(job_id, attempt)}{CHECKPOINT_FILE}"


def trainer_log(job_id: str, attempt: int) -> str:
    """What the trainer of an attempt printed."""
    return f"{_attempt_prefix(job_id, attempt)}{LOG_FILE}"


def node_log(job_id: str, attempt: int, node: int) -> str:
    """What the ranks of another node of an attempt printed; those of node 0 print into the trainer's log."""
    return f"{_attempt_prefix(job_id, attempt)}trainer-node-{node}.log"


def output(job_id: str, attempt: int, name: str) -> str:
    """One output file of an attempt."""
    return f"{_attempt_prefix(job_id, attempt)}{OUTPUT_FOLDER}/{name}"


def marker(marker_id: str) -> str:
    """The empty object that tells the storage of one ledger from any other."""
    return f"markers/{marker_id}"


def _attempt_prefix(job_id: str, attempt: int) -> str:
    return f"{job_prefix(job_id)}{attempt}/"
