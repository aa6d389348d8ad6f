"""The docstring below a field describes it in the JSON schema."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from lit_spec.documented import Documented


class Inner(Documented):
    value: int = 0
    """A number."""


class First(Documented):
    plain: int = 0
    """In
    two lines."""
    own: Annotated[int, Field(description="Its own.")] = 0
    """Not this."""
    inner: Inner = Inner()
    """A model."""
    hidden: Annotated[int, Field(exclude=True)] = 0
    """In no answer."""
    renamed: Annotated[int, Field(alias="called")] = 0
    """By its alias."""
    bare: int = 0


class Second(First):
    more: int = 0
    """Added."""
    bare: int = 1
    """Described at last."""


def descriptions(model: type[BaseModel], **options: Any) -> dict[str, str | None]:
    properties = model.model_json_schema(**options)["properties"]
    return {name: schema.get("description") for name, schema in properties.items()}


def test_docstrings_are_descriptions() -> None:
    assert descriptions(First) == {
        "plain": "In\ntwo lines.",
        "own": "Its own.",
        "inner": "A model.",
        "hidden": "In no answer.",
        "called": "By its alias.",
        "bare": None,
    }
    assert First.model_json_schema()["$defs"]["Inner"]["properties"]["value"]["description"] == "A number."


def test_fields_that_answers_leave_out_are_not_described() -> None:
    assert "hidden" not in descriptions(First, mode="serialization")


def test_inherited_fields_keep_theirs() -> None:
    found = descriptions(Second)
    assert found["plain"] == "In\ntwo lines."
    assert (found["more"], found["bare"]) == ("Added.", "Described at last.")
