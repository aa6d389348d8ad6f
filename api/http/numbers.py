"""Whole numbers in query parameters and headers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError


def _digits(text: str) -> str:
    """Pydantic would also take 1_0, +1 and 1.0, which others read differently."""
    if not (text.isascii() and text.isdecimal()):
        raise PydanticCustomError("digits", "Input should be a whole number in digits, such as 12")
    return text


WholeNumber = Annotated[int, BeforeValidator(_digits)]
