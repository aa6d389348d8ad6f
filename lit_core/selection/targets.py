"""Choosing a student that reaches a target: what its blocks cost is measured first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from lit_core.measuring.cost import block_flops
from lit_core.networks.block_costs import latency_costs
from lit_core.networks.block_selection import Inputs, Sample, Selection
from lit_core.networks.parameters import parameter_counts
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened
from lit_core.selection.blocks import AllowedDrop, Budget, Unreachable, select_blocks
from lit_spec import Output, Precision, Select, SpecError, Target
from lit_spec.networks.students import NANOSECONDS_PER_MS, BlockCosts
from lit_spec.requests.target import LATENCIES
from lit_spec.trainer.report import TargetReport


@dataclass(frozen=True)
class Measurements:
    """How a teacher and its students are measured."""

    sample: Sample
    precision: Precision
    drop: Callable[[nn.Module], float]
    """Points of validation accuracy that a network loses against the teacher; without labels, of agreement."""


def select_for_target(
    teacher: SectionedNetwork,
    target: Target,
    select: Select,
    batches: Iterable[Inputs],
    measurements: Measurements,
    field: str,
    output: Output = Output.LOGITS,
) -> Selection:
    """The blocks of a student that reaches the target: by `recover` with the least damage for what it saves, otherwise
    of the deepest one; for `max_accuracy_drop` of the shallowest one.

    `batches` are those of `select_blocks`. Raises SpecError for `field` if no student reaches the target.
    """
    if target.max_accuracy_drop is not None:
        return _within_drop(teacher, target, select, batches, measurements, field, output)
    costs = block_costs(teacher, target, measurements)
    target.check_asks_for_less(costs.total, field)
    try:
        selection = select_blocks(teacher, Budget(costs, target.most(costs.total)), select, batches, output)
    except Unreachable as failure:
        raise SpecError(field, target.unreachable(costs.total, int(failure.nearest))) from failure
    return replace(selection, target=_report(target, costs.total, costs.left(selection.kept_blocks)))


def _report(target: Target, total: int, left: int) -> TargetReport:
    if target.name in LATENCIES:
        return TargetReport(
            asked=target, unit="ms", teacher=total / NANOSECONDS_PER_MS, expected=left / NANOSECONDS_PER_MS
        )
    unit: Literal["FLOPs", "parameters"] = "FLOPs" if target.flops_ratio is not None else "parameters"
    return TargetReport(asked=target, unit=unit, teacher=total, expected=left)


def block_costs(teacher: SectionedNetwork, target: Target, measurements: Measurements) -> BlockCosts:
    """What the target is about: parameters, FLOPs or nanoseconds."""
    if target.name in LATENCIES:
        return latency_costs(teacher, measurements.sample(target.batch), measurements.precision)
    if target.flops_ratio is not None:
        return block_flops(teacher.network, teacher.sections, measurements.sample(1))
    return parameter_counts(teacher.network, teacher.layout.sections)


def _within_drop(
    teacher: SectionedNetwork,
    target: Target,
    select: Select,
    batches: Iterable[Inputs],
    measurements: Measurements,
    field: str,
    output: Output = Output.LOGITS,
) -> Selection:
    drops: dict[str, float] = {}

    def drop(kept_blocks: list[list[int]]) -> float:
        key = str(kept_blocks)
        if key not in drops:
            drops[key] = measurements.drop(shortened(teacher, kept_blocks).network)
        return drops[key]

    try:
        selection = select_blocks(teacher, AllowedDrop(target.value, drop), select, batches, output)
    except Unreachable as failure:
        if not math.isfinite(failure.nearest):
            raise SpecError(
                field,
                f"asks for {target}, but the outputs of the untrained student of one block less are not finite: give a "
                "depth, because training may make up for that",
            ) from failure
        raise SpecError(
            field,
            f"asks for {target}, but the untrained student of one block less loses {failure.nearest:.2f} points: raise "
            "it, or give a depth, because training may make up for that",
        ) from failure
    expected = drop(selection.kept_blocks)
    return replace(selection, target=TargetReport(asked=target, unit="points", teacher=0.0, expected=expected))
