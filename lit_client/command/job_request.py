"""Builds the body of `POST /v1/jobs` from a command's options, and checks it before anything is uploaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lit_client.compressed import PLACEHOLDER_ID, is_store_url
from lit_client.errors import LitError
from lit_spec import (
    BUILTIN,
    Constants,
    Inspection,
    JobRequest,
    Library,
    LibraryRequest,
    SpecError,
    TableColumns,
    check_depth,
    resolve,
)
from lit_spec.mistakes import Mistake, mistakes
from lit_spec.requests.dataset import DATASET_SOURCES
from lit_spec.requests.job import STUDENT_FORMS
from lit_spec.requests.target import LATENCIES, TARGETS

Body = dict[str, Any]


class BadRequest(LitError):
    """The service would refuse the request that the command's options make."""

    def __init__(self, message: str, fields: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.fields = fields


def build_body(request_file: Path | None, options: Mapping[str, object | None], settings: Sequence[str]) -> Body:
    """Merge the three sources. A setting overrides an option, and an option overrides the file.

    `options` are dotted paths into the request; None means that the option was not given.
    """
    body = read_json_object(request_file) if request_file else {}
    given = [(path, value) for path, value in options.items() if value is not None]
    for path, value in [*given, *map(_parse_setting, settings)]:
        for rival in _rivals(path, value):
            _remove(body, rival)
        _assign(body, path, value)
    return body


def check_body(body: Body) -> JobRequest:
    """The request as the service would read it, with placeholders for what is still to be uploaded.

    Raises BadRequest that names each wrong field.
    """
    request = with_placeholders(body)
    try:
        checked = JobRequest.model_validate(request)
        check_depth(checked.student, checked.method)
    except ValidationError as error:
        raise refused("request", mistakes(JobRequest, request, error)) from error
    except SpecError as error:
        raise refused("request", [Mistake(error.field, error.message)]) from error
    return checked


def refused(what: str, found: Sequence[Mistake]) -> BadRequest:
    """The error for a request, or a study, with these mistakes."""
    lines = [f"  {mistake.field}: {mistake.message}" for mistake in found]
    return BadRequest(f"The service would refuse this {what}:\n" + "\n".join(lines), [one.field for one in found])


def with_placeholders(job: Body) -> Body:
    """A job's request in which a placeholder stands for a teacher and a data set that are still to be uploaded."""
    dataset = job.get("dataset", {})
    if isinstance(dataset, dict) and not set(DATASET_SOURCES) & set(dataset):
        dataset = {"upload": PLACEHOLDER_ID, **dataset}
    return {"teacher": PLACEHOLDER_ID, **job, "dataset": dataset}


def check_student(request: JobRequest, inspection: Inspection, discriminator: Inspection | None = None) -> None:
    """Check that student and discriminator fit the teacher, before a large data set is sent. Raises BadRequest."""
    try:
        resolve(request, _checked(inspection), None if discriminator is None else _checked(discriminator))
    except SpecError as error:
        raise refused("request", [Mistake(error.field, error.message)]) from error
    except ValidationError:
        return  # a newer service's inspection, with values that are unknown here: the service itself checks


def _checked(inspection: Inspection) -> Inspection:
    """Raises ValidationError for values that this version does not know, which reading an answer has kept."""
    return Inspection.model_validate(inspection.model_dump(mode="json"))


def image_options(size: str | None, normalize: Constants | None, accuracy: float | None) -> dict[str, object | None]:
    """Paths into the request with their values. Raises BadRequest."""
    return {
        "dataset.size": None if size is None else _parse_size(size),
        "dataset.mean": normalize,
        "dataset.std": normalize,
        "teacher_accuracy": accuracy,
    }


def dataset_options(dataset: str | None) -> dict[str, object | None]:
    """What `--dataset` says about a data set that is not uploaded, as paths into the request with their values."""
    return {
        "dataset.builtin": dataset if dataset in BUILTIN else None,
        "dataset.url": dataset if is_store_url(dataset) else None,
    }


def tracking_options(experiment: str | None, no_track: bool, tensorboard: bool = False) -> dict[str, object | None]:
    """Paths into the request with their values. Raises BadRequest."""
    if experiment is not None and no_track:
        raise BadRequest("Both --track-experiment and --no-track are given: give one of them.")
    return {
        "track.mlflow.experiment": experiment,
        "track.mlflow": False if no_track else None,
        "tensorboard": tensorboard or None,
    }


def _parse_size(text: str) -> list[int]:
    """`224` or `224,160` as height and width. Raises BadRequest."""
    try:
        sides = [int(part) for part in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise BadRequest(f"--size {text!r} is not a size in pixels: write 224, or height and width as 224,160.")
    return [sides[0], sides[-1]]


def parse_blocks(text: str) -> list[int]:
    """`2,2,2` as a list. Raises BadRequest."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadRequest(f"--blocks {text!r} is not a list of numbers: write one for each section, as 2,2,2.") from None


def parse_kept(text: str) -> list[list[int]]:
    """`0/0,2` as a list for each section. Raises BadRequest."""
    try:
        return [[int(index) for index in section.split(",")] for section in text.split("/")]
    except ValueError:
        raise BadRequest(
            f"--kept {text!r} is not a list of numbers for each section: write the blocks to keep, as 0/0,2."
        ) from None


def parse_columns(text: str) -> Body:
    """`text=title,text=review,label=stars` as the columns of a table. Raises BadRequest."""
    columns: Body = {}
    for part in text.split(","):
        field, equals, name = part.partition("=")
        if not equals or field not in TableColumns.model_fields or (field in columns and field != "text"):
            raise BadRequest(
                f"--columns {text!r}: write FIELD=NAME with each of {', '.join(TableColumns.model_fields)} once (text "
                "may be repeated), as text=review,label=stars; for names with commas use --set dataset.columns=JSON."
            )
        columns.setdefault(field, []).append(name)
    return {field: names[0] if len(names) == 1 else names for field, names in columns.items()}


def target_option(text: str | None) -> dict[str, float]:
    """`size_mb=5` as a path into the request with its value. Raises BadRequest."""
    if text is None:
        return {}
    name, _, value = text.partition("=")
    if name not in TARGETS:
        raise BadRequest(f"--target {text!r}: write NAME=VALUE with one of {', '.join(TARGETS)}, as size_mb=5.")
    try:
        return {f"student.target.{name}": float(value)}
    except ValueError:
        raise BadRequest(f"--target {text!r}: {value!r} is not a number: write it as {name}={TARGETS[name]}.") from None


def parse_architecture(text: str) -> Body:
    """`torchvision/resnet50`, or the whole object as JSON. Raises BadRequest."""
    if not text.startswith("{"):
        library, name = parse_network("--architecture", text)
        return {"library": library, "name": name}
    try:
        given: Body = json.loads(text)
        LibraryRequest.model_validate(given)
    except ValidationError as failure:
        first = mistakes(LibraryRequest, given, failure)[0]
        raise BadRequest(f"--architecture: {first.field}: {first.message}.") from None
    except ValueError as failure:
        raise BadRequest(f"--architecture {text!r} is not valid JSON: {failure}.") from None
    return given


def parse_network(what: str, text: str) -> tuple[Library, str]:
    """Library and name of `torchvision/resnet50`. Raises BadRequest, which says that `what` was given."""
    library, _, name = text.partition("/")
    if not name or library not in list(Library):
        raise BadRequest(f"{what} {text!r}: write torchvision/NAME or timm/NAME, as torchvision/resnet50.")
    return Library(library), name


def parse_changes(settings: Sequence[str]) -> Body:
    """`--set` options as a merge patch (RFC 7396), which also removes the fields that exclude what they set."""
    patch: Body = {}
    for path, value in chain.from_iterable(_inner(*_parse_setting(setting)) for setting in settings):
        for rival in _rivals(path, value):
            _assign(patch, rival, None)
        _assign(patch, path, value)
    return patch


def read_json_object(path: Path) -> Body:
    """A request from a file. Raises BadRequest."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadRequest(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(body, dict):
        raise BadRequest(f"{path} is not a JSON object: write the request as one object, {{…}}.")
    return body


def _parse_setting(setting: str) -> tuple[str, object]:
    path, equals, text = setting.partition("=")
    if not equals or not all(path.split(".")):
        raise BadRequest(f"--set {setting!r}: write key.path=value, as schedule.batch_size=64.")
    try:
        return path, json.loads(text)
    except ValueError:
        if text[:1] in {"[", "{", '"'}:
            raise BadRequest(
                f"--set {setting!r}: {text} is not valid JSON. Correct it, or quote it for the shell."
            ) from None
        return path, text  # a bare word is a string: --set ir_loss=l1


def _inner(path: str, value: object) -> Iterator[tuple[str, object]]:
    """The values inside of an object with their paths. In a merge patch they mean the same."""
    if not isinstance(value, dict) or not value:
        yield path, value
        return
    for name, inside in value.items():
        yield from _inner(f"{path}.{name}", inside)


# A request has at most one field of each group, so that setting one removes the others.
GROUPS = (
    ("student", tuple(STUDENT_FORMS)),
    ("student", ("kept", "select")),
    ("student.target", tuple(TARGETS)),
    ("dataset", DATASET_SOURCES),
)


def _rivals(path: str, value: object) -> list[str]:
    """The paths of the fields that a request can't have together with `path`, or with an object that it is in."""
    if value is None:
        return []
    names = path.split(".")
    given = [".".join(names[: length + 1]) for length in range(len(names))]
    # A batch belongs to a latency.
    without_batch = any(f"student.target.{name}" == path for name in TARGETS if name not in LATENCIES)
    return ["student.target.batch"] * without_batch + [
        f"{parent}.{rival}"
        for parent, group in GROUPS
        for name in group
        if f"{parent}.{name}" in given
        for rival in group
        if rival != name
    ]


def _remove(body: Body, path: str) -> None:
    parent, _, name = path.rpartition(".")
    place: Any = body
    for part in parent.split("."):
        place = place.get(part) if isinstance(place, dict) else None
    if isinstance(place, dict):
        place.pop(name, None)


def _assign(body: Body, path: str, value: object) -> None:
    *parents, name = path.split(".")
    place = body
    for parent in parents:
        inner = place.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise BadRequest(f"{path} can't be set, because {parent} is {inner!r}: set {parent} to an object.")
        place = inner
    place[name] = value
