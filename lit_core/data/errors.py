"""The exception of this package, and what becomes one: everything that a reader raises because of its data."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from lit_core.measuring.memory import is_out_of_memory
from lit_spec.shown import shown

__all__ = ["DatasetError", "NotOfTheData", "Stopped", "damage_is_an_error", "is_of_machine", "shown"]

ERRNOS_OF_BAD_DATA = (None, errno.EINVAL, errno.EOVERFLOW)
"""Libraries raise OSError without an errno for content that they can't decode. The others come from seeking to a place
that a damaged file names."""
PACK_AGAIN = "it is damaged or cut off; pack it again and check it before uploading"


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


class NotOfTheData(Exception):
    """The data may be good: something else failed while it was read."""


class Stopped(NotOfTheData):
    """Whoever watches the reading has asked to stop it."""


@contextmanager
def damage_is_an_error(
    what: str, repair: str = PACK_AGAIN, *, field: str | None = None, member: str | None = None
) -> Iterator[None]:
    """Turns whatever is raised because of the data into a DatasetError that says that `what` can't be read.

    Libraries raise anything for a broken file, so this is every exception but those of the machine.
    """
    try:
        yield
    except DatasetError:
        raise
    except Exception as failure:
        if is_of_machine(failure):
            raise
        reason = shown(str(failure) or type(failure).__name__).rstrip(".")
        raise DatasetError(f"{what} can't be read ({reason}): {repair}", field=field, member=member) from failure


def is_of_machine(failure: Exception) -> bool:
    """Whether memory, the disk or another part of the machine failed, so that the data may be good."""
    if isinstance(failure, NotOfTheData):
        return True
    if isinstance(failure, OSError):
        return failure.errno not in ERRNOS_OF_BAD_DATA
    return is_out_of_memory(failure)
