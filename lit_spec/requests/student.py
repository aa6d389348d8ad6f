"""Resolves the student of a request: blocks per section, whichever of its forms the request uses."""

from __future__ import annotations

from collections.abc import Sequence

from lit_spec.base import SpecError
from lit_spec.networks.architecture import Architecture, Inspection, layers_per_block
from lit_spec.networks.students import least_reduced
from lit_spec.requests.job import STUDENT_FORMS, STUDENT_FORMS_SHOWN, StudentRequest, StudentSpec
from lit_spec.requests.training import Init, Method, Select


def resolve_student(student: StudentRequest, method: Method, inspection: Inspection) -> StudentSpec:
    """Raises SpecError if the request does not fit its teacher."""
    teacher = inspection.architecture
    fresh = method == Method.SCRATCH or method.born_again
    init = student.init or (Init.RANDOM if fresh else Init.INHERIT)
    if method.born_again:
        _check_born_again(student, method, teacher)
        return StudentSpec(depth=teacher.depth, blocks=teacher.blocks, init=init)
    check_depth(student, method)
    if student.kept is not None:
        return _student_of_kept(student.kept, student.allow_same_depth, init, inspection)
    if student.select != Select.EVEN and init == Init.RANDOM:
        raise SpecError("student.select", "chooses the blocks to inherit, but init is random: leave it out")
    chosen = _student_depth(student, init, inspection)
    return chosen.model_copy(update={"select": student.select})


def _student_depth(student: StudentRequest, init: Init, inspection: Inspection) -> StudentSpec:
    if student.ratio is not None:
        return _student_of_ratio(student.ratio, init, inspection)
    if student.depth is not None:
        return _student_of_depth(student.depth, student.allow_same_depth, init, inspection)
    return _student_of_blocks(student.blocks or [], student.allow_same_depth, init, inspection)


def check_depth(student: StudentRequest, method: Method) -> None:
    """Raises SpecError if the request does not give the student's depth."""
    if all(getattr(student, name) is None for name in STUDENT_FORMS) and not method.born_again:
        raise SpecError("student", f"give exactly one of {STUDENT_FORMS_SHOWN}")


def _check_born_again(student: StudentRequest, method: Method, teacher: Architecture) -> None:
    if student.depth not in (None, teacher.depth) or student.blocks not in (None, teacher.blocks):
        raise SpecError("student", f"method {method} keeps the teacher's depth {teacher.depth}: leave the depth out")
    for name in ("kept", "ratio", "select"):
        if name in student.model_fields_set and getattr(student, name) is not None:
            raise SpecError(
                f"student.{name}", f"has no effect with method {method}, which keeps all blocks: leave it out"
            )


def _student_of_ratio(ratio: float, init: Init, inspection: Inspection) -> StudentSpec:
    blocks = _blocks_of_ratio(ratio, inspection)
    if blocks is None:
        most = max((option.parameters_ratio for option in inspection.students), default=1.0)
        raise SpecError(
            "student.ratio", f"is {ratio:g}, but the smallest student has {most:g} times fewer parameters: lower it"
        )
    return StudentSpec(depth=_depth(blocks, inspection), blocks=blocks, init=init)


def _blocks_of_ratio(ratio: float, inspection: Inspection) -> list[int] | None:
    """None if no student has so few parameters."""
    if inspection.parameter_counts is not None:
        return least_reduced(inspection.parameter_counts, ratio)
    # Stored by an older version. A study that it began also gets the students that it would have got from it.
    small = [option for option in inspection.students if inspection.parameters >= ratio * option.parameters]
    return small[-1].blocks if small else None


def _student_of_depth(depth: int, allow_same_depth: bool, init: Init, inspection: Inspection) -> StudentSpec:
    teacher = inspection.architecture
    by_depth = {option.depth: option.blocks for option in inspection.students}
    smaller = [d for d in by_depth if d < teacher.depth]
    if not smaller and not allow_same_depth:
        raise SpecError(
            "student.depth",
            f"the teacher's depth {teacher.depth} is the smallest of the family {teacher.family}: give a deeper "
            "teacher, or set allow_same_depth",
        )
    if depth >= teacher.depth and not (allow_same_depth and depth == teacher.depth):
        raise SpecError(
            "student.depth",
            f"{depth} is not smaller than the teacher's depth {teacher.depth}: choose one of {smaller}"
            ' (or set "allow_same_depth" to use the teacher\'s own depth)',
        )
    if depth not in by_depth:
        raise SpecError("student.depth", f"no student of this teacher has the depth {depth}: choose one of {smaller}")
    return StudentSpec(depth=depth, blocks=by_depth[depth], init=init)


def _student_of_blocks(blocks: list[int], allow_same_depth: bool, init: Init, inspection: Inspection) -> StudentSpec:
    teacher = inspection.architecture
    if len(blocks) != len(teacher.blocks):
        raise SpecError(
            "student.blocks",
            f"has {len(blocks)} sections, but the teacher has {teacher.blocks}: give {len(teacher.blocks)} numbers",
        )
    if any(s > t for s, t in zip(blocks, teacher.blocks, strict=True)):
        raise SpecError(
            "student.blocks",
            f"{blocks} has more blocks in a section than the teacher: give at most {teacher.blocks}",
        )
    if blocks == teacher.blocks and not allow_same_depth:
        raise SpecError(
            "student.blocks",
            f"{blocks} is the teacher's own depth: use fewer blocks in at least one section, or set allow_same_depth",
        )
    return StudentSpec(depth=_depth(blocks, inspection), blocks=blocks, init=init)


def _depth(blocks: list[int], inspection: Inspection) -> int:
    """The depth of a student with these blocks per section."""
    teacher = inspection.architecture
    return teacher.depth - layers_per_block(inspection) * (sum(teacher.blocks) - sum(blocks))


def _student_of_kept(kept: list[list[int]], allow_same_depth: bool, init: Init, inspection: Inspection) -> StudentSpec:
    teacher = inspection.architecture
    check_kept(kept, teacher.blocks, inspection.first_blocks_stay, "student.kept")
    blocks = [len(indices) for indices in kept]
    if blocks == teacher.blocks and not allow_same_depth:
        raise SpecError(
            "student.kept", "keeps all blocks of the teacher: leave out at least one, or set allow_same_depth"
        )
    return StudentSpec(depth=_depth(blocks, inspection), blocks=blocks, init=init, select=None, kept=kept)


def check_kept(
    kept: Sequence[Sequence[int]], blocks: Sequence[int], first_blocks_stay: Sequence[bool] | None, field: str
) -> None:
    """Check `kept` against a teacher's blocks per section. Raises SpecError for `field`.

    `first_blocks_stay` says for each section whether its first block can't be left out; None: that is not known.
    """
    if len(kept) != len(blocks):
        raise SpecError(
            field, f"has {len(kept)} sections, but the teacher has {len(blocks)}: give the blocks to keep of each"
        )
    for section, (indices, count) in enumerate(zip(kept, blocks, strict=True)):
        if indices[-1] >= count:
            raise SpecError(
                f"{field}.{section}",
                f"has the index {indices[-1]}, but the section has {count} blocks: give 0 to {count - 1}",
            )
        if indices[0] != 0 and first_blocks_stay is not None and first_blocks_stay[section]:
            raise SpecError(
                f"{field}.{section}",
                "leaves out the first block, which changes the shape or has other tensors than the next: keep block 0",
            )
