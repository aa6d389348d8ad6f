"""Checks paths and query parameters."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute

from api.http.problems import Problem, invalid
from lit_spec.mistakes import Mistake, listed


def check_address(request: Request) -> None:
    """Refuse query parameters that the route doesn't take, or that come twice, and a NUL character anywhere.

    PostgreSQL can't store or look up NUL. Raises Problem 404 or 422.
    """
    if "\0" in request.scope["path"]:
        raise Problem(404, "not-found", "the path has a NUL character: leave it out")
    wrong = listed(_wrong_parameters(request), whole="query")
    if wrong:
        raise invalid(wrong)


def _wrong_parameters(request: Request) -> Iterator[Mistake]:
    sent: dict[str, list[str]] = defaultdict(list)
    for name, value in request.query_params.multi_items():
        sent[name].append(value)
    known = _parameters(request.scope["route"]) if sent else []
    for name, values in sent.items():
        field = name.replace("\0", "%00")
        if any("\0" in text for text in (name, *values)):
            yield Mistake(field, "has a NUL character: leave it out")
        elif name not in known:
            yield Mistake(field, _unknown(name, known))
        elif len(values) > 1:
            yield Mistake(field, f"is given {len(values)} times: give it once")


def _parameters(route: APIRoute) -> list[str]:
    """The query parameters of a route, those of its dependencies included."""
    return sorted(field.alias for field in get_flat_params(route.dependant) if isinstance(field.field_info, Query))


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if close:
        return f"unknown parameter: did you mean {close[0]}?"
    return f"unknown parameter: known are {', '.join(known)}" if known else "unknown parameter: this route takes none"
