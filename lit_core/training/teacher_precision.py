"""What a teacher in bfloat16 loses against the same teacher in float32."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor

from lit_core.measuring.scores import agreement
from lit_core.networks.sections import SectionedNetwork
from lit_core.training.batch import Batch
from lit_core.training.taught import LiveTeacher, Needs
from lit_spec import Precision
from lit_spec.trainer.report import TeacherPrecisionReport

MOST_BATCHES = 8
"""Enough to measure errors that hardly differ from sample to sample."""


def measure_teacher_precision(
    teacher: SectionedNetwork, batches: Iterable[tuple[tuple[Tensor, ...], Tensor]], precision: Precision
) -> TeacherPrecisionReport:
    """On the first of the validation split's batches of inputs and labels. The teacher is frozen."""
    teachers = [LiveTeacher(teacher, Needs(trace=True), one) for one in (Precision.FLOAT32, precision)]
    wanted, found = [], []
    errors, norms = (torch.zeros(len(teacher.sections), dtype=torch.float64) for _ in range(2))
    for inputs, labels in islice(batches, MOST_BATCHES):
        exact, other = (taught(Batch(inputs, labels)) for taught in teachers)
        wanted.append(exact.output.cpu())
        found.append(other.output.cpu())
        for n, (right, made) in enumerate(zip(exact.trace.outputs, other.trace.outputs, strict=True)):
            errors[n] += float((made - right).square().sum())
            norms[n] += float(right.square().sum())
    relative = (errors / norms.clamp_min(torch.finfo(torch.float32).tiny)).sqrt()
    outputs = torch.cat(found), torch.cat(wanted)
    return TeacherPrecisionReport(
        precision=precision,
        agreement=round(agreement(*outputs), 4) if outputs[0].ndim == 2 else None,
        representation_errors=[round(error, 6) for error in relative.tolist()],
        samples=len(outputs[0]),
    )
