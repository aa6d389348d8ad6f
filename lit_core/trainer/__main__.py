"""`python -m lit_core.trainer FOLDER`: the trainer of one job.

FOLDER is the job folder: spec.json, run.json, teacher.safetensors, for some jobs discriminator.safetensors and the data
set, and to resume checkpoint.pt. Messages leave as JSON lines on standard output (lit_spec.trainer.messages). The
results are in FOLDER/output at the end. Exit codes: 0 finished or drained, 1 failed with a message that says why, 75
ended because its deadline passed.

`lit_core.trainer.launch` starts several ranks of it. The first one on each machine reads deadlines, the first of all
sends messages and writes files.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

# Before torch is loaded: cuBLAS is deterministic only with a workspace of fixed size.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

from lit_core.data import DatasetError
from lit_core.measuring.memory import is_out_of_memory
from lit_core.networks.layout import NoSections
from lit_core.trainer.job import run_job
from lit_core.trainer.ranks import local_rank, rank, ranks
from lit_core.trainer.supervision import DeadlineWatch, MessageSink, MessageWriter, NoMessages, StopSignal
from lit_core.training.loop import Drained
from lit_core.training.setbacks import Diverged
from lit_core.training.task import Refused
from lit_spec import ErrorType, JobError, SpecError
from lit_spec.trainer import messages
from lit_spec.trainer.folder import TrainerExit

log = logging.getLogger("trainer")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lit_core.trainer", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--supervised", action="store_true", help="exit if no new deadline arrives on standard input")
    arguments = parser.parse_args()
    named = f" rank {rank()}:" if ranks() > 1 else ""
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)s{named} %(message)s")
    watch = DeadlineWatch()
    watch.start(supervised=arguments.supervised, reads_deadlines=local_rank() == 0)
    return run(arguments.folder, MessageWriter() if rank() == 0 else NoMessages(), watch)


def run(folder: Path, sink: MessageSink, stop: StopSignal) -> TrainerExit:
    """Run the job, and send the message that says how it ended. Raises what no message can explain."""
    try:
        report = run_job(folder, sink, stop)
    except Drained:
        log.info("drained")
        sink.emit(messages.Drained())
        return TrainerExit.DONE
    except (Refused, DatasetError, SpecError, NoSections, Diverged, MemoryError, RuntimeError) as failure:
        error = job_error(failure)
        if error is None:
            raise
        log.error("%s: %s", error.type, error.detail, exc_info=failure.__cause__)
        sink.emit(messages.Failed(error=error))
        return TrainerExit.FAILED
    if report is None:
        return TrainerExit.DONE
    result = report.summary()
    log.info("result: %s", result.as_json())
    sink.emit(messages.Finished(result=result))
    return TrainerExit.DONE


def job_error(failure: Exception) -> JobError | None:
    """The typed error of a failure that the user can do something about; None for a bug."""
    error: JobError | None = None
    match failure:
        case Refused():
            error = failure.error
        case DatasetError(detail=detail, field=field, member=member):
            error = JobError(type=ErrorType.BAD_DATASET, detail=detail, field=field or "dataset", member=member)
        case SpecError(field=field):
            error = JobError(type=ErrorType.BAD_SPECIFICATION, detail=str(failure), field=field)
        case NoSections():
            error = JobError(type=ErrorType.BAD_TEACHER, detail=str(failure), field="teacher")
        case Diverged():
            detail = f"{failure}: lower schedule.lit.learning_rate or schedule.fine_tune.learning_rate"
            error = JobError(type=ErrorType.DIVERGED, detail=detail, field="schedule")
        case _ if is_out_of_memory(failure):
            detail = "the worker's memory is too small for this job: lower schedule.batch_size, or use a larger worker"
            error = JobError(type=ErrorType.OUT_OF_MEMORY, detail=detail, field="schedule.batch_size")
    return error


if __name__ == "__main__":
    sys.exit(main())
