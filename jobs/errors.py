"""What the ledger refuses. The API turns each into a problem of the same type."""

from __future__ import annotations


class NotFound(Exception):
    """There is no such thing, or it belongs to someone else: the two are not told apart."""

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"there is no {kind} {id}")
        self.kind = kind
        self.id = id


class Conflict(Exception):
    """The thing's state forbids what was asked. `type` is the problem's stable slug."""

    def __init__(self, type: str, detail: str) -> None:
        super().__init__(detail)
        self.type = type
        self.detail = detail


class Stale(Exception):
    """Another attempt holds the job, or another request the upload: this one must stop and may change nothing."""
