"""/v1/architectures: the networks of torchvision and timm, and what each depth of student would save."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import TypeAdapter

from api.http.auth import Owner
from api.http.pages import InPages
from api.http.problems import Problem
from lit_spec import Library
from lit_spec.answers.architectures import ArchitectureItem, LibraryArchitecture
from lit_spec.answers.pages import Page
from lit_spec.networks.catalogue import catalogue, find_entry, near_names

_POSITION: TypeAdapter[tuple[str, str]] = TypeAdapter(tuple[str, str])

router = APIRouter(prefix="/v1/architectures", tags=["architectures"])


@router.get("")
def list_architectures(
    page: InPages,
    library: Annotated[Library | None, Query(description="Only the networks of this library.")] = None,
    search: Annotated[str, Query(max_length=100, description="Part of the name.")] = "",
) -> Page[ArchitectureItem]:
    """The networks by library and name."""
    after = page.read_cursor(_POSITION)
    # timm's names may have the tag of pretrained weights after a dot.
    part = search.lower().partition(".")[0]
    keys = sorted(
        (of, name)
        for of, name in catalogue()
        if (library is None or of == library) and part in name.lower() and (after is None or (of, name) > after)
    )
    items = [ArchitectureItem.model_validate(find_entry(*key)) for key in keys[: page.limit]]
    more = len(keys) > page.limit
    return Page(items=items, next_cursor=page.make_cursor(keys[page.limit - 1], _POSITION) if more else None)


@router.get("/{library}/{name}")
def get_architecture(library: Library, name: str, owner: Owner) -> LibraryArchitecture:  # noqa: ARG001
    """One network: its sections, its blocks, and what each depth would save, before anything is uploaded."""
    entry = find_entry(library, name)
    if entry is None:
        near = ", ".join(near_names(library, name))
        hint = f": did you mean {near}?" if near else ""
        raise Problem(404, "not-found", f"the catalogue has no network {name!r} of {library}{hint}")
    return LibraryArchitecture.model_validate(entry)
