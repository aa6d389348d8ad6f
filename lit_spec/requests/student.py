"""Resolves the student of a request: blocks per section, or a target that only the trainer can turn into them."""

from __future__ import annotations

from collections.abc import Sequence

from lit_spec.base import SpecError
from lit_spec.networks.architecture import Architecture, Inspection, Modality, Task
from lit_spec.networks.students import BlockCosts, Rule, depth_of, evenly, first, least_reduced
from lit_spec.requests.dataset import DatasetRequest
from lit_spec.requests.job import STUDENT_FORMS, STUDENT_FORMS_SHOWN, StudentRequest, StudentSpec
from lit_spec.requests.target import LATENCIES, Target
from lit_spec.requests.training import Init, Method, Select

RECOVERING = (Method.LIT, Method.KD, Method.AT, Method.MIMIC)
"""Methods whose students may have the blocks that `recover` chooses, and may be repaired."""
FIXED_RULES: dict[Select, Rule] = {Select.EVEN: evenly, Select.FIRST: first}
"""Which blocks of a section a student has, where that doesn't depend on the data."""


def resolve_student(
    student: StudentRequest, method: Method, inspection: Inspection, dataset: DatasetRequest, *, sharded: bool = False
) -> StudentSpec:
    """`sharded`: each process holds only a part of the teacher. Raises SpecError if the request does not fit its
    teacher."""
    teacher = inspection.architecture
    if student.plan is not None:
        _check_plan(student, method, teacher)
        return StudentSpec(depth=None, blocks=None, init=Init.INHERIT, select=Select.RECOVER, plan=student.plan)
    fresh = method == Method.SCRATCH or method.born_again
    init = student.init or (Init.RANDOM if fresh else Init.INHERIT)
    if method.born_again:
        _check_born_again(student, method, teacher)
        return StudentSpec(depth=teacher.depth, blocks=teacher.blocks, init=init)
    check_depth(student, method)
    if sharded:
        _check_beside_sharded(student)
    # What tries students out makes them from a teacher that each process has as a whole.
    recovers = not sharded and _is_repairable(method, init, teacher.task)
    select = None if student.kept is not None else _select(student.select, method, init, teacher.task, recovers)
    chosen = _sized(student, method, select, init, inspection, dataset)
    return chosen.model_copy(update={"repair": _repair(student.repair, method, select, init, teacher.task)})


def _check_beside_sharded(student: StudentRequest) -> None:
    """Raises SpecError for what needs the whole teacher in one process."""
    because = "which needs the whole teacher in one process, but shard_teacher is true"
    if student.select == Select.RECOVER:
        raise SpecError("student.select", f"is recover, {because}: give even, first or importance")
    if student.repair:
        raise SpecError("student.repair", f"is true, {because}: leave it out")
    if student.target is not None and student.target.name in (*LATENCIES, "max_accuracy_drop"):
        raise SpecError(
            "student.target",
            f"has {student.target.name}, {because}: give flops_ratio, parameters_ratio or size_mb, or a depth",
        )


def _sized(
    student: StudentRequest,
    method: Method,
    select: Select | None,
    init: Init,
    inspection: Inspection,
    dataset: DatasetRequest,
) -> StudentSpec:
    """The student with its blocks, as far as the request alone decides them. Raises SpecError."""
    if select is None:
        return _student_of_kept(student.kept or [], student.allow_same_depth, init, inspection)
    if student.target is not None or student.ratio is not None:
        target = student.target or Target(parameters_ratio=student.ratio)
        field = "ratio" if student.target is None else "target"
        _check_target_of(method, target)
        return _student_of_target(target, f"student.{field}", select, init, inspection, dataset)
    if student.depth is None:
        chosen = _student_of_blocks(student.blocks or [], student.allow_same_depth, init, inspection)
        return chosen.model_copy(update={"select": select})
    chosen = _student_of_depth(student.depth, student.allow_same_depth, init, inspection)
    # How many blocks of each section stay is chosen together with which ones.
    blocks = None if select == Select.RECOVER and chosen.blocks != inspection.architecture.blocks else chosen.blocks
    return chosen.model_copy(update={"select": select, "blocks": blocks})


def _check_plan(student: StudentRequest, method: Method, teacher: Architecture) -> None:
    """Raises SpecError where blocks can't be left out one after the other by their damage."""
    if teacher.task != Task.CLASSIFICATION:
        raise SpecError("teacher", "is a generator, but a plan is for classifiers: give another teacher")
    if method not in RECOVERING:
        raise SpecError(
            "method",
            f"is {method}, but a plan is for students that inherit blocks: leave it out, or give one of "
            f"{', '.join(RECOVERING)}",
        )
    if student.init == Init.RANDOM:
        raise SpecError("student.init", "is random, but a plan measures inherited blocks: leave it out")
    if student.select not in (None, Select.RECOVER):
        raise SpecError("student.select", f"is {student.select}, but a plan measures what recover does: leave it out")
    if student.repair is not None:
        raise SpecError("student.repair", "is for a student that is trained: give student.plan.repair instead")
    _check_can_lose_blocks(teacher, "there is nothing to plan")


def _check_target_of(method: Method, target: Target) -> None:
    """Raises SpecError for a target that the method can't reach."""
    if method == Method.PRUNE and target.parameters_ratio is None and target.size_mb is None:
        raise SpecError(
            "student.target",
            f"has {target.name}, but method prune sets weights to zero in the teacher's own architecture: give "
            "parameters_ratio or size_mb",
        )


def _select(asked: Select | None, method: Method, init: Init, task: Task, recovers: bool) -> Select:
    """`recovers`: whether the blocks can be chosen by `recover`. Raises SpecError if they can't be chosen as asked."""
    if asked is None:
        return Select.RECOVER if recovers else Select.EVEN
    if asked != Select.EVEN and init == Init.RANDOM:
        raise SpecError("student.select", "chooses the blocks to inherit, but init is random: leave it out")
    if asked == Select.RECOVER and not recovers:
        what = f"method {method}" if task == Task.CLASSIFICATION else "generators"
        raise SpecError("student.select", f"is recover, which is not for {what}: give even, first or importance")
    return asked


def _is_repairable(method: Method, init: Init, task: Task) -> bool:
    """Whether a student inherits its blocks, and its outputs are compared with the teacher's."""
    return init == Init.INHERIT and task == Task.CLASSIFICATION and method in RECOVERING


def _repair(asked: bool | None, method: Method, select: Select | None, init: Init, task: Task) -> bool:
    """Raises SpecError if there is nothing to repair."""
    if asked and not _is_repairable(method, init, task):
        if task != Task.CLASSIFICATION:
            what = "generators"
        else:
            what = "random blocks" if init == Init.RANDOM else f"method {method}"
        raise SpecError("student.repair", f"is true, but there is no repair for {what}: leave it out")
    return select == Select.RECOVER if asked is None else asked


def check_depth(student: StudentRequest, method: Method) -> None:
    """Raises SpecError if the request does not give the student's depth."""
    if all(getattr(student, name) is None for name in STUDENT_FORMS) and not method.born_again:
        raise SpecError("student", f"give exactly one of {STUDENT_FORMS_SHOWN}")


def _check_born_again(student: StudentRequest, method: Method, teacher: Architecture) -> None:
    if student.depth not in (None, teacher.depth) or student.blocks not in (None, teacher.blocks):
        raise SpecError("student", f"method {method} keeps the teacher's depth {teacher.depth}: leave the depth out")
    for name in ("kept", "ratio", "target", "select", "repair"):
        if getattr(student, name) not in (None, False, Select.EVEN):
            raise SpecError(
                f"student.{name}", f"has no effect with method {method}, which keeps all blocks: leave it out"
            )


def _student_of_target(
    target: Target, field: str, select: Select, init: Init, inspection: Inspection, dataset: DatasetRequest
) -> StudentSpec:
    """Without blocks where the data, or a measurement, decides which student reaches the target."""
    if target.max_accuracy_drop is not None:
        _check_accuracy_target(field, init, inspection.architecture)
    costs, rule = _known_costs(target, inspection, dataset), FIXED_RULES.get(select)
    open_student = StudentSpec(depth=None, blocks=None, init=init, select=select, target=target)
    if target.parameters_ratio is not None and inspection.parameter_counts is None:
        blocks = _inspected_student(target.parameters_ratio, field, inspection)
    elif costs is None:
        return open_student
    elif rule is None:
        # Whichever blocks are chosen, the smallest student has one block of each section.
        _blocks_within(target, costs, first, field)
        return open_student
    else:
        blocks = _blocks_within(target, costs, rule, field)
    return open_student.model_copy(update={"depth": _depth(blocks, inspection), "blocks": blocks})


def _check_accuracy_target(field: str, init: Init, teacher: Architecture) -> None:
    if teacher.task != Task.CLASSIFICATION:
        raise SpecError(field, "has max_accuracy_drop, which is for classifiers: give another target for a generator")
    if init == Init.RANDOM:
        raise SpecError(
            field, "has max_accuracy_drop, which measures inherited blocks, but init is random: give another target"
        )
    _check_can_lose_blocks(teacher, "none can be left out")


def _check_can_lose_blocks(teacher: Architecture, consequence: str) -> None:
    """Raises SpecError for a teacher that can lose no block."""
    if sum(teacher.blocks) == len(teacher.blocks):
        raise SpecError("teacher", f"has one block in each section, so {consequence}: give a deeper teacher")


def _known_costs(target: Target, inspection: Inspection, dataset: DatasetRequest) -> BlockCosts | None:
    """What the target is about, as far as the inspection knows it."""
    if target.parameters_ratio is not None or target.size_mb is not None:
        return inspection.parameter_counts
    if target.flops_ratio is not None and _input_shape(inspection.architecture, dataset) == inspection.input_shape:
        return inspection.flops
    return None


def _input_shape(teacher: Architecture, dataset: DatasetRequest) -> list[int] | None:
    """Of one input; None if only the data tells."""
    if teacher.modality == Modality.TEXT:
        return [dataset.length]
    return None if dataset.size is None or teacher.channels is None else [teacher.channels, *dataset.size]


def _blocks_within(target: Target, costs: BlockCosts, rule: Rule, field: str) -> list[int]:
    """The blocks per section of the deepest student that reaches the target. Raises SpecError if there is none."""
    whole = [len(section) for section in costs.blocks]
    target.check_asks_for_less(costs.total, field)
    blocks = least_reduced(costs, target.most(costs.total), lambda section, wanted: rule(whole[section], wanted))
    if blocks is None:
        raise SpecError(field, target.unreachable(costs.total, costs.left([rule(count, 1) for count in whole])))
    return blocks


def _inspected_student(ratio: float, field: str, inspection: Inspection) -> list[int]:
    """Of a teacher that an older version inspected. A study that it began also gets the students of that version."""
    small = [option for option in inspection.students if inspection.parameters >= ratio * option.parameters]
    if not small:
        least = min((option.parameters for option in inspection.students), default=inspection.parameters)
        raise SpecError(field, Target(parameters_ratio=ratio).unreachable(inspection.parameters, least))
    return small[-1].blocks


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
    return depth_of(blocks, [(option.depth, option.blocks) for option in inspection.students])


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
