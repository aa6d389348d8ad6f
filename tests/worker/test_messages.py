"""What a trainer says: only what the ledger can hold is a message."""

from __future__ import annotations

import json

import pytest

from lit_spec.trainer.messages import Started
from worker.training.messages import parse


@pytest.mark.parametrize("text", ["plain", "C:\\u0000\\data", "α ✓"])
def test_any_text_may_be_said(text: str) -> None:
    for line in (json.dumps, lambda value: json.dumps(value, ensure_ascii=False)):
        data = {text: [{"text": text}]}
        assert parse(line({"type": "started", "data": data}).encode()) == Started(type="started", data=data)


@pytest.mark.parametrize(
    "line",
    [
        b"plain text",
        b"[1]",
        b'{"type": "started"',
        b'{"type": "nonsense"}',
        b'{"type": "started", "data": {"text": "a\\u0000b"}}',
        b'{"type": "started", "data": {"a\\u0000b": 1}}',
        b'{"type": "started", "data": {"text": ["\\ud800"]}}',
        b'{"type": "started", "data": {"loss": NaN}}',
        b'{"type": "started", "data": {"loss": 1e999}}',
        b'{"type": "started", "data": ' + b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_the_ledger_cannot_hold_is_no_message(line: bytes) -> None:
    assert parse(line) is None
