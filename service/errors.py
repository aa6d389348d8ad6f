"""Errors that end a command of the service with one sentence instead of a traceback."""

from __future__ import annotations

USAGE = 2
FAILURE = 1
INTERRUPTED = 130


class CommandError(Exception):
    """The command can't continue. The message says what is wrong and what to do."""

    exit_code = USAGE


class NotConfigured(CommandError):
    """A setting is missing or wrong."""


class NoDatabase(CommandError):
    """The data folder holds no database, and the command doesn't make one."""


class BadAddress(CommandError):
    """The API can't listen on this address."""


class DataDirInUse(CommandError):
    """Another service uses the data folder. `database_url` is the address of its database, if it has one already."""

    def __init__(self, message: str, database_url: str | None) -> None:
        super().__init__(message)
        self.database_url = database_url


class ChildFailed(CommandError):
    """A child process can't be started, or failed too many times in a row."""

    exit_code = FAILURE
