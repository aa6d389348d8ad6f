"""Reading the trainer's messages: a line is checked before any of it reaches the ledger."""

from __future__ import annotations

import json

from pydantic import ValidationError

from jobs.database import jsonb
from lit_spec.trainer.messages import TRAINER_MESSAGE, TrainerMessage

MAX_LINE_BYTES = 1 << 20
"""A longer line is not a message."""


def parse(line: bytes) -> TrainerMessage | None:
    """The message of a line; None for anything else, and for what a `jsonb` column can't hold."""
    try:
        value = json.loads(line)
        jsonb.check(value)
        return TRAINER_MESSAGE.validate_python(value)
    except (ValueError, ValidationError, RecursionError):
        return None
