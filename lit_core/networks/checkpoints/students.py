"""Students that LIT has made, as teachers: their files say what they are, which tensors alone may not show.

A file may say anything, so only what can't be found out from its tensors is taken from it, and is checked against them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from lit_core.networks.checkpoints.files import TeacherError
from lit_core.networks.families import FAMILIES, Recognised, Unrecognised
from lit_core.networks.families.library import describe_student
from lit_spec import Architecture, Library, LibraryRequest, SpecError

AS_DOWNLOADED = "give the student as it was downloaded, or name the architecture"
LONGEST_NAME, LONGEST_REASON = 200, 1000


def read_told(told: Any) -> Architecture:
    """What a file says of its architecture. Raises TeacherError."""
    try:
        architecture = Architecture.model_validate(told)
    except ValidationError as failure:
        raise _impossible(failure.errors(include_url=False)[0]["loc"]) from failure
    if not _is_name(architecture.family):
        raise _impossible(["family"])
    if architecture.network is not None and not _is_name(architecture.network.name):
        raise _impossible(["network", "name"])
    return architecture


def _impossible(place: Sequence[str | int]) -> TeacherError:
    """`place` is where in the architecture. Its last part may be any text, of any length."""
    path = ".".join(["architecture", *map(str, place)])
    field = path if _is_name(path) else "architecture"
    return TeacherError(f"the student's file says what no architecture can be ({field}): {AS_DOWNLOADED}")


def _is_name(text: str) -> bool:
    """Whether a file's text can be shown as it is."""
    return len(text) <= LONGEST_NAME and text.isprintable()


def is_of(request: LibraryRequest, told: Architecture) -> bool:
    """Whether the request names the library's network of which the file says that it is a student."""
    # With arguments or sections the request says more than the file does.
    plain = LibraryRequest(library=request.library, name=request.name)
    is_same = told.network is not None and (told.family, told.network.name) == (request.library, request.name)
    return is_same and request == plain


def library_student(told: Architecture) -> Recognised | None:
    """A student of a library's network; None for one of a family that is recognised by its tensors.

    Raises TeacherError.
    """
    if told.network is None or told.family not in list(Library):
        return None
    library = Library(told.family)
    try:
        architecture = describe_student(library, told.network)
        family = FAMILIES[library.value]
        family.layout(architecture)
    except (SpecError, Unrecognised, ValueError) as failure:
        said = f"the student's file says that it is made of {library.value}'s {told.network.name}, which is impossible"
        raise TeacherError(f"{said} ({_reason(failure)}): {AS_DOWNLOADED}") from failure
    return Recognised(family, architecture)


def _reason(failure: Exception) -> str:
    """Why a network is impossible, without control characters of the file, and cut off where it is long."""
    text = str(failure)
    if isinstance(failure, ValidationError):
        wrong = failure.errors(include_url=False)[0]
        text = f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
    text = text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def with_told_options(recognised: Recognised, told: Architecture | None) -> Recognised:
    """With the options that tensors don't show as the student's file has them."""
    architecture = recognised.architecture
    if told is None or told.family != architecture.family:
        return recognised
    options = {name: told.options.get(name) for name in architecture.choices}
    known = {name: value for name, value in options.items() if value in architecture.choices[name]}
    return Recognised(recognised.family, architecture.model_copy(update={"options": architecture.options | known}))


def made_of(told: Architecture) -> str:
    """The student, in words."""
    network = told.network
    if network is None:
        return f"student of the family {told.family}"
    return f"student of {told.family}/{network.name}"
