"""Identifiers: a prefix that says what it names, and 130 random bits."""

from __future__ import annotations

import secrets

ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
LENGTH = 26


def new_id(prefix: str) -> str:
    """`<prefix>_<26 lowercase base32 characters>`."""
    return f"{prefix}_{''.join(secrets.choice(ALPHABET) for _ in range(LENGTH))}"
