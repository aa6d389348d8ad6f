"""The mistakes in a value that a model refused: each once, under the path that its author knows."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

WHOLE = "body"
"""The path of a mistake that concerns no single field."""
LISTED = 20
"""The most mistakes that are named: a request of 1 MiB has room for 100,000."""
LONGEST_FIELD = 200
_ENTRIES = 10 * LISTED
"""The most errors of pydantic that are looked at. Several of them may be one mistake: one for each type of a union."""

Models = Sequence[type[BaseModel]]
"""The models that a value may have: one, or the variants of a union."""

_TAG_ERRORS = {"union_tag_invalid", "union_tag_not_found"}


@dataclass(frozen=True)
class Mistake:
    """A field, as a dotted path, and what is wrong with it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(use_attribute_docstrings=True)

    field: str
    """Dotted path of the field, for example `student.depth`."""
    message: str
    """What is wrong with it and what to do."""


def as_text(found: Iterable[Mistake]) -> str:
    """All mistakes in one line."""
    return "; ".join(f"{mistake.field}: {mistake.message}" for mistake in found)


def listed(found: Iterable[Mistake], whole: str = WHOLE) -> list[Mistake]:
    """The first mistakes, their fields shortened. If there are more, a last one says so, with `whole` as its field."""
    first = list(islice(found, LISTED + 1))
    shown = [Mistake(_shortened(mistake.field), mistake.message) for mistake in first[:LISTED]]
    return [*shown, Mistake(whole, "has more mistakes: correct these first")] if len(first) > LISTED else shown


def _shortened(field: str) -> str:
    return field if len(field) <= LONGEST_FIELD else f"{field[:LONGEST_FIELD]}…"


def mistakes(model: type[BaseModel], value: object, failure: ValidationError) -> list[Mistake]:
    """What `model` found wrong with `value`, in the order of the fields, as `listed`."""
    return mistakes_in(model, value, failure.errors(include_url=False))


def mistakes_in(type_: Any, value: object, entries: Iterable[Mapping[str, Any]]) -> list[Mistake]:
    """The same from the entries of a ValidationError; `type_` may also be a union of models."""
    models = list(_models(type_))
    errors = [_field_error(models, value, entry) for entry in islice(entries, _ENTRIES)]
    return listed(Mistake(".".join(found.path) or WHOLE, found.message) for found in _once(errors, 0))


@dataclass(frozen=True)
class _FieldError:
    path: tuple[str, ...]
    """Without the names of the union variants that pydantic tried."""
    variants: tuple[tuple[int, str], ...]
    """Of each union on the way: the length of the path before it, and the variant that reports the error."""
    message: str


def _field_error(models: Models, value: object, entry: Mapping[str, Any]) -> _FieldError:
    location: Sequence[int | str] = entry["loc"]
    path: list[str] = []
    variants: list[tuple[int, str]] = []
    here = value
    for number, part in enumerate(location, 1):
        if _is_in(part, here):
            here = here[part]  # type: ignore[index]
            path.append(str(part))
        elif number == len(location) and (entry["type"] == "missing" or _is_field(models, location)):
            # Not given, and either required or wrong by its default.
            path.append(str(part))
        else:
            # Not in the value, so it names a variant of a union, or says that a dictionary's key is wrong.
            variants.append((len(path), str(part)))
    if entry["type"] in _TAG_ERRORS and not location:
        # The value itself is the union: the field that chooses its variant is wrong.
        path.append(_discriminator(entry))
    return _FieldError(tuple(path), tuple(variants), _message(models, entry))


def _message(models: Models, entry: Mapping[str, Any]) -> str:
    if entry["type"] == "extra_forbidden":
        return _unknown_field(models, [str(part) for part in entry["loc"]])
    if entry["type"] == "union_tag_invalid" and not entry["loc"]:
        return f"must be one of {_plain(entry['ctx']['expected_tags'])}"
    if entry["type"] == "union_tag_not_found":
        return f"{entry['ctx']['discriminator']} is missing: it decides what the other fields mean"
    return _plain(entry["msg"].removeprefix("Value error, "))


def _plain(message: str) -> str:
    """The message with plain values: pydantic shows literals that are members of an enum in Python's notation."""
    return re.sub(r"<[\w.]+: ('[^']*')>", r"\1", message)


def _discriminator(entry: Mapping[str, Any]) -> str:
    return str(entry["ctx"]["discriminator"]).strip("'")


def _is_field(models: Models, location: Sequence[int | str]) -> bool:
    *path, name = (str(part) for part in location)
    return name in _fields_at(models, path)


def _is_in(part: int | str, value: object) -> bool:
    if isinstance(part, int):
        return isinstance(value, list | tuple) and part < len(value)
    return isinstance(value, dict) and part in value


def _once(errors: Sequence[_FieldError], level: int) -> Iterator[_FieldError]:
    """If several variants of a union report errors: the errors of the variant that got furthest, or all of them if no
    variant got further than the union itself."""
    groups: dict[object, list[_FieldError]] = defaultdict(list)
    for error in errors:
        united = level < len(error.variants)
        groups[error.path[: error.variants[level][0]] if united else error].append(error)
    for group in groups.values():
        if level >= len(group[0].variants):
            yield group[0]
            continue
        place = group[0].variants[level][0]
        by_variant: dict[str, list[_FieldError]] = defaultdict(list)
        for error in group:
            by_variant[error.variants[level][1]].append(error)
        inside = [found for found in by_variant.values() if any(len(error.path) > place for error in found)]
        if len(by_variant) == 1 or inside:
            yield from _once(min(inside or by_variant.values(), key=len), level + 1)
        else:
            yield _FieldError(group[0].path, (), _any_of([error.message for error in group]))


def _any_of(messages: Sequence[str]) -> str:
    first, *others = dict.fromkeys(messages)
    return ", or ".join([first, *(other[:1].lower() + other[1:] for other in others)])


def _unknown_field(models: Models, location: Sequence[str]) -> str:
    known = _fields_at(models, location[:-1])
    close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.7)
    suggestion = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return f"unknown field: {suggestion}"


def _fields_at(models: Models, path: Sequence[str]) -> list[str]:
    """The field names that an object at `path` may have. The path also names the chosen variants of unions."""
    for name in path:
        inner = [m for outer in models if name in outer.model_fields for m in _models_in(outer, name)]
        models = inner or [m for m in models if _is_variant(m, name)] or models
    return sorted({field.alias or name for found in models for name, field in found.model_fields.items()})


def _is_variant(model: type[BaseModel], name: str) -> bool:
    """Whether pydantic uses this name for the model: the class's name, or the value of its discriminator."""
    return name == model.__name__ or any(name in typing.get_args(f.annotation) for f in model.model_fields.values())


def _models_in(model: type[BaseModel], name: str) -> list[type[BaseModel]]:
    return list(_models(model.model_fields[name].annotation))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for part in typing.get_args(annotation):
        yield from _models(part)
