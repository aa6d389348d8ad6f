"""A plan: a range of students, each with what it would cost and keep, measured without training any of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from lit_core.measuring.cost import block_flops
from lit_core.networks.block_costs import latency_costs
from lit_core.networks.block_selection import Sample
from lit_core.networks.parameters import parameter_counts
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened
from lit_core.selection.recovery import Kept, Recovery
from lit_spec import Precision
from lit_spec.networks.students import NANOSECONDS_PER_MS, BlockCosts, ParameterCounts, unbeaten
from lit_spec.requests.plan import PlanOptions
from lit_spec.trainer.plan import PlannedStudent
from lit_spec.trainer.report import Measures


@dataclass(frozen=True)
class Costs:
    """Of a teacher and its blocks."""

    parameters: ParameterCounts
    flops: BlockCosts
    latency: BlockCosts
    """In nanoseconds."""


def measure_costs_of_blocks(teacher: SectionedNetwork, sample: Sample, batch: int, precision: Precision) -> Costs:
    return Costs(
        parameter_counts(teacher.network, teacher.layout.sections),
        block_flops(teacher.network, teacher.sections, sample(1)),
        latency_costs(teacher, sample(batch), precision),
    )


def students_of_plan(recovery: Recovery, costs: Costs, students: int) -> list[Kept]:
    """So many students, or all if there are fewer: those that leave out one block after the other, the one with the
    least damage for the time that it saves first, spread evenly from the largest to the smallest."""
    latency = costs.latency
    found = list(recovery.descent(lambda kept: latency.total - latency.left(kept)))
    last, wanted = len(found) - 1, min(students, len(found))
    return [found[round(number * last / max(wanted - 1, 1))] for number in range(wanted)]


def measured_student(
    recovery: Recovery,
    kept: Kept,
    costs: Costs,
    options: PlanOptions,
    depth: int,
    measure: Callable[[nn.Module], Measures],
) -> PlannedStudent:
    """`measure` gives a network's scores on the validation split."""
    student = shortened(recovery.teacher, kept)
    damage, untrained = recovery.damage_of(student), measure(student.network)
    size = file_size(student.network)
    repaired = measure(student.network) if options.repair and recovery.repair(student, damage) else None
    return PlannedStudent(
        depth=depth,
        blocks=[len(indices) for indices in kept],
        kept=kept,
        parameters=costs.parameters.left(kept),
        flops=costs.flops.left(kept),
        file_size=size,
        latency_ms=round(costs.latency.left(kept) / NANOSECONDS_PER_MS, 4),
        damage=round(damage, 4) if math.isfinite(damage) else None,
        untrained=untrained,
        repaired=repaired,
        front=False,
    )


def with_front(students: Sequence[PlannedStudent], metric: str) -> list[PlannedStudent]:
    """Marks the students than which no other one is both faster and better. One without a score is not among them."""
    scores = [student.best(metric) for student in students]
    front = unbeaten(
        {
            place: (-student.latency_ms, score)
            for place, (student, score) in enumerate(zip(students, scores, strict=True))
            if score is not None
        }
    )
    return [student.model_copy(update={"front": place in front}) for place, student in enumerate(students)]


def file_size(network: nn.Module) -> int:
    """Bytes of the weights in a file, which has those that several modules share more than once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
