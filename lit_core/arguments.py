"""The arguments of `lit_core.compress`: which student and which hyperparameters the caller asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from lit_core.networks.block_selection import Selection, first_blocks_stay
from lit_core.networks.sections import SectionedNetwork, has_batch_norm
from lit_core.selection.blocks import Depth, FixedBlocks
from lit_spec import Hyperparameters, Method, Select, StudentRequest, Target
from lit_spec.mistakes import as_text, mistakes
from lit_spec.requests.presets import ANY_NETWORK, Preset, Values, merged, with_rates
from lit_spec.requests.resolve import resolve_schedule
from lit_spec.requests.student import check_kept
from lit_spec.requests.then import INT8

METHODS = (Method.LIT, Method.KD, Method.AT, Method.MIMIC)
SERVICE_ONLY = {
    "n_random": "add batches of random noise to the data",
    "accept": "compare the numbers in the report",
    "time_limit_s": "use an observer that stops the training",
    "max_attempts": "here there is only one attempt",
    "devices": "here one process trains",
    "nodes": "here one process trains",
    "shard_teacher": "here one process trains",
    "adversarial": "only classifiers are trained here",
    "teacher_cache": "batches don't name their samples",
}
"""Hyperparameters that would have no effect here, and what to do instead."""


@dataclass(frozen=True)
class NamedTarget:
    target: Target
    field: str
    """The argument that gave it."""


@dataclass(frozen=True)
class Wish:
    """Which student the caller wants: one of the first four."""

    blocks: Sequence[int] | None
    depth: int | None
    kept: Sequence[Sequence[int]] | None
    target: NamedTarget | None
    select: Select | None
    """None: `kept` names the blocks."""
    repair: bool | None

    @property
    def repairs(self) -> bool:
        return self.select == Select.RECOVER if self.repair is None else self.repair


def wish_of(
    *,
    blocks: Sequence[int] | None,
    depth: int | None,
    ratio: float | None,
    kept: Sequence[Sequence[int]] | None,
    target: Mapping[str, Any] | None,
    select: Select | str | None,
    repair: bool | None,
    validated: bool,
) -> Wish:
    """`validated`: whether there is validation data. Raises ValueError for arguments that exclude one another, and for
    wrong ones."""
    if sum(value is not None for value in (blocks, depth, ratio, kept, target)) != 1:
        raise ValueError(
            "give one of blocks (as [2, 2, 2]), depth (as 6), ratio (as 2.5), kept (as [[0], [0, 2]]) and target (as "
            '{"latency_ratio": 1.5})'
        )
    return Wish(blocks, depth, kept, _target(target, ratio, validated), _select(select, kept), repair)


def _select(select: Select | str | None, kept: Sequence[Sequence[int]] | None) -> Select | None:
    """None if `kept` names the blocks."""
    if kept is not None:
        if select is not None:
            raise ValueError("kept names the blocks, and select chooses them: leave out one of them")
        return None
    if select is None:
        return Select.RECOVER
    if select not in list(Select):
        raise ValueError(f"select is {select!r}: give one of {', '.join(Select)}")
    return Select(select)


def _target(target: Mapping[str, Any] | None, ratio: float | None, validated: bool) -> NamedTarget | None:
    """Raises ValueError for a target that doesn't fit the other arguments."""
    if target is None and ratio is None:
        return None
    given, field = (dict(target), "target") if target is not None else ({"parameters_ratio": ratio}, "ratio")
    try:
        found = Target.model_validate(given)
    except ValidationError as failure:
        raise ValueError(f"{field}: {as_text(mistakes(Target, given, failure))}") from failure
    if found.max_accuracy_drop is not None and not validated:
        raise ValueError("target has max_accuracy_drop, which is measured on validation data: give validation")
    return NamedTarget(found, field)


def wanted_blocks(teacher: SectionedNetwork, blocks: Sequence[int] | None, depth: int | None) -> FixedBlocks | Depth:
    """Raises ValueError where the numbers don't fit the model."""
    whole = [len(section) for section in teacher.sections]
    if blocks is not None:
        blocks = [_integer(own, "blocks") for own in blocks]
        if len(blocks) != len(whole) or any(not 1 <= own <= most for own, most in zip(blocks, whole, strict=False)):
            raise ValueError(f"blocks must give the number of blocks to keep in each section; the model has {whole}")
        if blocks == whole:
            raise ValueError(f"blocks is {whole}, all that the model has: use fewer in at least one section")
        return FixedBlocks(blocks)
    depth = _integer(depth, "depth")
    if not len(whole) <= depth < sum(whole):
        raise ValueError(
            f"depth is {depth}, but a student of a model with blocks {whole} has {len(whole)} to {sum(whole) - 1}"
        )
    return Depth(depth)


def _integer(given: Any, name: str) -> int:
    try:
        return index(given)
    except TypeError as failure:
        raise ValueError(f"{name} has {given!r}, but counts blocks: give an integer") from failure


def kept_blocks(teacher: SectionedNetwork, kept: Sequence[Sequence[int]], inputs: tuple[Tensor, ...]) -> Selection:
    """The named blocks. Raises ValueError where they don't fit the model."""
    whole = [len(section) for section in teacher.sections]
    given = {"kept": [list(indices) for indices in kept]}
    try:
        indices = StudentRequest.model_validate(given).kept or []
    except ValidationError as failure:
        raise ValueError(as_text(mistakes(StudentRequest, given, failure))) from failure
    check_kept(indices, whole, first_blocks_stay(teacher, inputs), "kept")
    if [len(of_section) for of_section in indices] == whole:
        raise ValueError("kept names all blocks of the model: leave out at least one")
    return Selection(indices)


def hyperparameters_of(
    model: nn.Module, preset: Preset | str | None, hyperparameters: Mapping[str, Any]
) -> Hyperparameters:
    """The caller's hyperparameters over the preset's. Raises ValueError."""
    given = _validated_fields(hyperparameters).model_dump(exclude_unset=True)
    values = with_rates(_preset_values(preset), given, batch_norm=has_batch_norm(model))
    return _checked(merged(values, given), given)


def _preset_values(preset: Preset | str | None) -> Values:
    """The preset's hyperparameters. What the data decides here stays: the size of batches and the augmentation."""
    if preset is not None and preset not in list(Preset):
        raise ValueError(f"preset is {preset!r}: give one of {', '.join(Preset)}")
    values = ANY_NETWORK[None if preset is None else Preset(preset)]
    schedule = {name: value for name, value in values.get("schedule", {}).items() if name != "batch_size"}
    own = {name: value for name, value in values.items() if name in Hyperparameters.model_fields}
    return own | ({"schedule": schedule} if schedule else {})


def _validated_fields(hyperparameters: Mapping[str, Any]) -> Hyperparameters:
    try:
        return Hyperparameters.model_validate(hyperparameters)
    except ValidationError as failure:
        raise ValueError(as_text(mistakes(Hyperparameters, hyperparameters, failure))) from failure


def _checked(hyperparameters: Mapping[str, Any], given: Mapping[str, Any]) -> Hyperparameters:
    """`given` are the ones that the caller named."""
    asked = Hyperparameters.model_validate(dict(hyperparameters))
    if asked.method not in METHODS:
        raise ValueError(f"method {asked.method} is only for the service: use one of {', '.join(METHODS)}")
    for name, instead in SERVICE_ONLY.items():
        if getattr(asked, name) != Hyperparameters.model_fields[name].default:
            raise ValueError(f"{name} is only for the service: {instead}")
    if INT8 in asked.then:
        raise ValueError("int8 is only for the service, which writes files: use prune:SHARE in then")
    if "batch_size" in given.get("schedule", {}):
        raise ValueError("schedule.batch_size is only for the service: the batches of the data are used as they are")
    return asked.model_copy(update={"schedule": resolve_schedule(asked.schedule, asked.method)})
