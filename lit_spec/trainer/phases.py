"""The phases that a running job goes through, from the claim to the stored files."""

from __future__ import annotations

from enum import StrEnum

from lit_spec.requests.training import Phase


class JobPhase(StrEnum):
    """What a running job is doing. A job has those that it needs, in this order.

    The worker names `claimed`, `preparing` and `storing`, the trainer all others.
    """

    CLAIMED = "claimed"
    """A worker has the job."""
    PREPARING = "preparing"
    """The worker copies the job's files to its disk and starts the trainer."""
    LOADING = "loading"
    """The trainer reads the teacher, the data set and the checkpoint."""
    SEARCHING_TARGET = "searching_target"
    """What the blocks cost is measured, and the blocks are chosen with which the student reaches its target."""
    CHOOSING_BLOCKS = "choosing_blocks"
    """The student's blocks are chosen."""
    REPAIRING = "repairing"
    """The student is repaired before its training."""
    MEASURING_TEACHER = "measuring_teacher"
    PLAN = "plan"
    """The students of a plan are measured, each of which counts as an epoch."""
    RACING = "racing"
    """Methods and learning rates compete; a step is a candidate."""
    LIT = Phase.LIT.value
    FINE_TUNE = Phase.FINE_TUNE.value
    PRUNE = Phase.PRUNE.value
    MEASURING_STUDENT = "measuring_student"
    """Teacher, student and baselines are measured on the test split."""
    EXPORTING = "exporting"
    """The student is written in other formats."""
    AFTER_TRAINING = "after_training"
    """The results of `then` are measured and written: the pruned students and the one in int8."""
    STORING = "storing"
    """The worker copies the results to storage."""
