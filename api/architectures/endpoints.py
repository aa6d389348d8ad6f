"""/v1/architectures: the networks of torchvision and timm, and what each depth of student would save."""

from __future__ import annotations

import base64
from typing import Annotated

from fastapi import APIRouter, Query

from api.http.auth import Owner
from api.http.pages import Cursor, Limit, wrong_cursor
from api.http.problems import Problem
from lit_spec import Library
from lit_spec.answers.architectures import ArchitectureItem, LibraryArchitecture
from lit_spec.answers.pages import Page
from lit_spec.networks.catalogue import catalogue, find_entry, near_names

router = APIRouter(prefix="/v1/architectures", tags=["architectures"])


@router.get("")
def list_architectures(
    owner: Owner,  # noqa: ARG001 - a key is needed here as everywhere
    library: Library | None = None,
    search: Annotated[str, Query(max_length=100, description="Part of the name.")] = "",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[ArchitectureItem]:
    """The networks by library and name."""
    after = _read_cursor(cursor)
    # timm's names may have the tag of pretrained weights after a dot.
    part = search.lower().partition(".")[0]
    keys = sorted(
        (of, name)
        for of, name in catalogue()
        if (library is None or of == library) and part in name.lower() and f"{of}/{name}" > after
    )
    items = [ArchitectureItem.model_validate(find_entry(*key)) for key in keys[:limit]]
    more = len(keys) > limit
    return Page(items=items, next_cursor=_cursor(items[-1]) if more else None)


@router.get("/{library}/{name}")
def get_architecture(library: Library, name: str, owner: Owner) -> LibraryArchitecture:  # noqa: ARG001
    """One network: its sections, its blocks, and what each depth would save, before anything is uploaded."""
    entry = find_entry(library, name)
    if entry is None:
        near = ", ".join(near_names(library, name))
        hint = f": did you mean {near}?" if near else ""
        raise Problem(404, "not-found", f"the catalogue has no network {name!r} of {library}{hint}")
    return LibraryArchitecture.model_validate(entry)


def _cursor(item: ArchitectureItem) -> str:
    return base64.urlsafe_b64encode(f"{item.library.value}/{item.name}".encode()).decode()


def _read_cursor(cursor: str | None) -> str:
    if cursor is None:
        return ""
    try:
        after = base64.urlsafe_b64decode(cursor.encode()).decode()
    except ValueError as bad:
        raise wrong_cursor() from bad
    if after.partition("/")[0] not in list(Library):
        raise wrong_cursor()
    return after
