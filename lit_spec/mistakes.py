"""What is wrong with a value that a model refused: each mistake once, under the path that whoever wrote it knows."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

WHOLE = "body"
"""The path of a mistake that no single field is to blame for."""


@dataclass(frozen=True)
class Mistake:
    """One field, as a dotted path, and what would be right."""

    field: str
    message: str


def mistakes(model: type[BaseModel], value: object, failure: ValidationError) -> list[Mistake]:
    """All that `model` found wrong with `value`, in the order of its fields."""
    complaints = [_complaint(model, value, entry) for entry in failure.errors(include_url=False)]
    return [Mistake(".".join(found.path) or WHOLE, found.message) for found in _once(complaints, 0)]


@dataclass(frozen=True)
class _Complaint:
    path: tuple[str, ...]
    """Without the names of kinds that pydantic tried."""
    kinds: tuple[tuple[int, str], ...]
    """Of each union on the way: how much of the path lies before it, and which of its kinds complains."""
    message: str


def _complaint(model: type[BaseModel], value: object, entry: Mapping[str, Any]) -> _Complaint:
    location: Sequence[int | str] = entry["loc"]
    path: list[str] = []
    kinds: list[tuple[int, str]] = []
    here = value
    for number, part in enumerate(location, 1):
        if _is_in(part, here):
            here = here[part]  # type: ignore[index]
            path.append(str(part))
        elif number == len(location) and (entry["type"] == "missing" or _is_field(model, location)):
            # Not given, and either needed or by its default wrong.
            path.append(str(part))
        else:
            # Not in the value, so it names a kind of a union, or a dictionary's key as opposed to its value.
            kinds.append((len(path), str(part)))
    return _Complaint(tuple(path), tuple(kinds), _message(model, entry))


def _message(model: type[BaseModel], entry: Mapping[str, Any]) -> str:
    if entry["type"] == "extra_forbidden":
        return _unknown_field(model, [str(part) for part in entry["loc"]])
    if entry["type"] == "union_tag_not_found":
        return f"{entry['ctx']['discriminator']} is missing: it says what the other fields mean"
    # Literals that are members of an enum are shown as Python writes them.
    return re.sub(r"<[\w.]+: ('[^']*')>", r"\1", entry["msg"].removeprefix("Value error, "))


def _is_field(model: type[BaseModel], location: Sequence[int | str]) -> bool:
    *path, name = (str(part) for part in location)
    return name in _fields_at(model, path)


def _is_in(part: int | str, value: object) -> bool:
    if isinstance(part, int):
        return isinstance(value, list | tuple) and part < len(value)
    return isinstance(value, dict) and part in value


def _once(complaints: Sequence[_Complaint], level: int) -> Iterator[_Complaint]:
    """Where the kinds of a union each complain, what the kind says that got furthest; together, where none got on."""
    groups: dict[object, list[_Complaint]] = defaultdict(list)
    for complaint in complaints:
        united = level < len(complaint.kinds)
        groups[complaint.path[: complaint.kinds[level][0]] if united else complaint].append(complaint)
    for group in groups.values():
        if level >= len(group[0].kinds):
            yield group[0]
            continue
        place = group[0].kinds[level][0]
        by_kind: dict[str, list[_Complaint]] = defaultdict(list)
        for complaint in group:
            by_kind[complaint.kinds[level][1]].append(complaint)
        inside = [found for found in by_kind.values() if any(len(complaint.path) > place for complaint in found)]
        if len(by_kind) == 1 or inside:
            yield from _once(min(inside or by_kind.values(), key=len), level + 1)
        else:
            yield _Complaint(group[0].path, (), _any_of([complaint.message for complaint in group]))


def _any_of(messages: Sequence[str]) -> str:
    first, *others = dict.fromkeys(messages)
    return ", or ".join([first, *(other[:1].lower() + other[1:] for other in others)])


def _unknown_field(model: type[BaseModel], location: Sequence[str]) -> str:
    known = _fields_at(model, location[:-1])
    close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.7)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return f"unknown field: {hint}"


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The names that an object at `path` may have; the path also names the chosen kinds of unions."""
    models = [model]
    for name in path:
        inner = [m for outer in models if name in outer.model_fields for m in _models_in(outer, name)]
        models = inner or [m for m in models if _is_kind(m, name)] or models
    return sorted({name for found in models for name in found.model_fields})


def _is_kind(model: type[BaseModel], name: str) -> bool:
    """Whether pydantic calls the model by that name: its own, or what tells it from others."""
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
