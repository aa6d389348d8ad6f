"""`python -m lit_core.trainer.inspect FILE FOLDER`: read an uploaded teacher in a separate process.

Writes FOLDER/inspection.json and FOLDER/teacher.safetensors and exits with 0. For a file that is not a teacher it
prints a JobError as JSON and exits with 1. An upload may be hostile, so the process first limits its memory and time.
"""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

from lit_spec import ErrorType, JobError, LibraryRequest, TeacherWeights
from lit_spec.trainer.folder import INSPECTION_FILE, TEACHER_FILE, TrainerExit


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lit_core.trainer.inspect", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--memory", type=int, help="limit of the address space in bytes")
    parser.add_argument("--cpu", type=int, help="limit of the processor time in seconds")
    parser.add_argument("--architecture", type=Path, help="JSON file with a LibraryRequest")
    parser.add_argument("--weights", type=TeacherWeights, help="raw or ema, where the file has both")
    arguments = parser.parse_args()
    if arguments.cpu:
        resource.setrlimit(resource.RLIMIT_CPU, (arguments.cpu, arguments.cpu))
    from safetensors.torch import save_file

    from lit_core.measuring.memory import is_out_of_memory
    from lit_core.networks.teacher import TeacherError, check_outputs_are_finite, inspect_teacher, read_teacher
    from lit_core.seeding import seeded

    if arguments.memory:
        # Set after torch is loaded, because its libraries map more address space than any checkpoint needs.
        resource.setrlimit(resource.RLIMIT_AS, (_mapped_bytes() + arguments.memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    named = arguments.architecture and LibraryRequest.model_validate_json(arguments.architecture.read_bytes())
    try:
        # Where values are needed to find a network's sections, they are always the same.
        with seeded(0):
            teacher = read_teacher(arguments.file, named, arguments.weights)
            check_outputs_are_finite(teacher)
            inspection = inspect_teacher(teacher)
        save_file(teacher.state, arguments.folder / TEACHER_FILE)
    except TeacherError as failure:
        return _refuse(str(failure), failure.field)
    except (MemoryError, RuntimeError) as failure:
        if not isinstance(failure, MemoryError) and not is_out_of_memory(failure):
            raise
        return _refuse(
            "the checkpoint needs more memory than an inspection may use: raise LIT_INSPECT_MEMORY_BYTES on the workers"
        )
    (arguments.folder / INSPECTION_FILE).write_text(inspection.model_dump_json())
    return TrainerExit.DONE


def _refuse(detail: str, field: str = "teacher") -> int:
    error = JobError(type=ErrorType.BAD_TEACHER, detail=detail, field=field)
    sys.stdout.write(error.model_dump_json() + "\n")
    return TrainerExit.FAILED


def _mapped_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
