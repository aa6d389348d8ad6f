"""A plan: what a range of students would cost and keep, before any training. `student.plan` of a request."""

from __future__ import annotations

from pydantic import Field

from lit_spec.base import SpecModel


class PlanOptions(SpecModel):
    """What a plan measures. Its job trains nothing and puts out no model."""

    students: int = Field(6, ge=2, le=100)
    """How many students are measured: from one block less than the teacher to one block of each section, spread
    evenly over those that leave out one block after the other."""
    batch: int = Field(1, ge=1, le=65_536)
    """For the latencies: samples in one forward pass."""
    repair: bool = False
    """Whether each student is also measured after its repair, which takes several times as long as all else."""
