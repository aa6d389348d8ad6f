"""Checks paths and query parameters."""

from __future__ import annotations

from fastapi import Request

from api.http.problems import Problem, invalid
from lit_spec.mistakes import Mistake


async def refuse_nul(request: Request) -> None:
    """Refuse a NUL character, which PostgreSQL can't store or look up. Raises Problem 404 or 422."""
    if "\0" in request.scope["path"]:
        raise Problem(404, "not-found", "the path has a NUL character: leave it out")
    wrong = [name for name, value in request.query_params.multi_items() if "\0" in name + value]
    if wrong:
        raise invalid(
            Mistake(field=name.replace("\0", "%00"), message="has a NUL character: leave it out") for name in wrong
        )
