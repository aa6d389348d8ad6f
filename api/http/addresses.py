"""Checks paths and query parameters."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute

from api.http.problems import Problem, invalid
from lit_spec.mistakes import Mistake


async def check_address(request: Request) -> None:
    """Refuse query parameters that the route doesn't take, or that come twice, and a NUL character anywhere.

    PostgreSQL can't store or look up NUL. Raises Problem 404 or 422.
    """
    if "\0" in request.scope["path"]:
        raise Problem(404, "not-found", "the path has a NUL character: leave it out")
    wrong = list(_wrong_parameters(request))
    if wrong:
        raise invalid(wrong)


def _wrong_parameters(request: Request) -> Iterator[Mistake]:
    sent = request.query_params.multi_items()
    if not sent:
        return
    known = _parameters(request.scope["route"])
    for name, times in Counter(name for name, _ in sent).items():
        field = name.replace("\0", "%00")
        if any("\0" in text for text in (name, *request.query_params.getlist(name))):
            yield Mistake(field, "has a NUL character: leave it out")
        elif name not in known:
            yield Mistake(field, _unknown(name, known))
        elif times > 1:
            yield Mistake(field, f"is given {times} times: give it once")


def _parameters(route: APIRoute) -> list[str]:
    """The query parameters of a route, those of its dependencies included."""
    return sorted(field.alias for field in get_flat_params(route.dependant) if isinstance(field.field_info, Query))


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if close:
        return f"unknown parameter: did you mean {close[0]}?"
    return f"unknown parameter: known are {', '.join(known)}" if known else "unknown parameter: this route takes none"
