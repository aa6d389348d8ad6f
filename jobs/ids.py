"""Identifiers: a prefix that says what it names, and 130 random bits."""

from __future__ import annotations

import secrets

ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
LENGTH = 26
_LETTERS = bytes(ord(ALPHABET[number % len(ALPHABET)]) for number in range(256))
"""By byte. 256 is a multiple of the alphabet's length, so every letter is as likely as any other."""


def new_id(prefix: str) -> str:
    """`<prefix>_<26 lowercase base32 characters>`."""
    return f"{prefix}_{secrets.token_bytes(LENGTH).translate(_LETTERS).decode()}"
