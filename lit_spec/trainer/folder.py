"""The job folder: names of the files that a worker and its trainer exchange, and the trainer's exit codes."""

from __future__ import annotations

from enum import IntEnum

SPEC_FILE = "spec.json"
"""The `JobSpec`."""
RUN_FILE = "run.json"
"""The `TrainerRun`."""
TEACHER_FILE = "teacher.safetensors"
"""An inspection writes this file, and a training reads it."""
DISCRIMINATOR_FILE = "discriminator.safetensors"
DATASET_FILE = "dataset"
"""The upload as it came: an archive, an .npz or a Parquet file."""
TEST_DATASET_FILE = "test-dataset"
"""The same of the upload that is the test split."""
CHECKPOINT_FILE = "checkpoint.pt"
LOG_FILE = "trainer.log"
"""The trainer's standard error."""
INSPECTION_FILE = "inspection.json"
"""The `Inspection`, in the output folder of the sandboxed process that inspects an upload."""

OUTPUT_FOLDER = "output"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
REPORT_FILE = "report.json"
"""The `Report`."""
BUNDLE_FILE = "bundle.zip"
"""All other files of the output."""
TENSORBOARD_FILE = "training.tfevents"
"""Only of jobs that ask for it. TensorBoard reads files with `tfevents` in their name."""
PICTURE_FILE = "translations.png"
"""Of a generator's job only."""
REQUIRED_OUTPUT = (WEIGHTS_FILE, CONFIG_FILE, REPORT_FILE)
"""Every job that trains a student has these in its output folder when it succeeds."""
PLAN_PICTURE_FILE = "plan.svg"
PLAN_OUTPUT = (REPORT_FILE, PLAN_PICTURE_FILE)
"""The same of a plan, whose report is a `PlanReport`."""


class TrainerExit(IntEnum):
    """Exit codes of `python -m lit_core.trainer` and, without `DEADLINE`, of `python -m lit_core.trainer.inspect`."""

    DONE = 0
    """Finished, or stopped on request after writing a checkpoint."""
    FAILED = 1
    """A message says why."""
    DEADLINE = 75
    """The trainer ended itself because its deadline had passed."""


SIGNALLED = 128
"""The exit code of a launcher is this and the signal that ended its rank, as in a shell."""
