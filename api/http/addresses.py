"""What an address may hold."""

from __future__ import annotations

from fastapi import Request

from api.http.problems import Problem, invalid
from lit_spec.mistakes import Mistake


async def refuse_nul(request: Request) -> None:
    """PostgreSQL stores no NUL: nothing is called so, and nothing can be looked for. Raises Problem 404 or 422."""
    if "\0" in request.scope["path"]:
        raise Problem(404, "not-found", "there is no such thing: the path has a NUL character")
    wrong = [name for name, value in request.query_params.multi_items() if "\0" in name + value]
    if wrong:
        raise invalid(Mistake(field=name.replace("\0", "%00"), message="has a NUL character") for name in wrong)
