"""The exception of this package."""

from __future__ import annotations


class DatasetError(Exception):
    """A data set that cannot be used. The trainer turns it into a JobError `bad-dataset`.

    `detail` says what is wrong and what to do. `field` is a dotted path in the job request, if one of its values is
    wrong. `member` is the file or array inside the data set.
    """

    def __init__(self, detail: str, *, field: str | None = None, member: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.member = member
