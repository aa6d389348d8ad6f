"""`python -m lit_core.trainer.inspect FILE FOLDER`: read an uploaded teacher in a process of its own.

Writes FOLDER/inspection.json and FOLDER/teacher.safetensors and exits 0; for a file that is no teacher it prints a
JobError as JSON and exits 1. An upload is hostile until read, so the process limits its own memory and time first.
"""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

from lit_spec import ErrorType, JobError, LibraryRequest


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lit_core.trainer.inspect", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--memory", type=int, help="bytes of address space at the most")
    parser.add_argument("--cpu", type=int, help="seconds of processor time at the most")
    parser.add_argument("--architecture", type=Path, help="JSON file that names a library's network")
    arguments = parser.parse_args()
    if arguments.cpu:
        resource.setrlimit(resource.RLIMIT_CPU, (arguments.cpu, arguments.cpu))
    from safetensors.torch import save_file

    from lit_core.measuring.cost import is_out_of_memory
    from lit_core.networks.teacher import TeacherError, inspect_teacher, read_teacher

    if arguments.memory:
        # Set after torch is loaded: its libraries map more address space than any checkpoint.
        resource.setrlimit(resource.RLIMIT_AS, (_mapped_bytes() + arguments.memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    named = arguments.architecture and LibraryRequest.model_validate_json(arguments.architecture.read_bytes())
    try:
        teacher = read_teacher(arguments.file, named)
        inspection = inspect_teacher(teacher)
        save_file(teacher.state, arguments.folder / "teacher.safetensors")
    except TeacherError as failure:
        return _refuse(str(failure), failure.field)
    except (MemoryError, RuntimeError) as failure:
        if not isinstance(failure, MemoryError) and not is_out_of_memory(failure):
            raise
        return _refuse("the checkpoint needs more memory than an inspection may use")
    (arguments.folder / "inspection.json").write_text(inspection.model_dump_json())
    return 0


def _refuse(detail: str, field: str = "teacher") -> int:
    error = JobError(type=ErrorType.BAD_TEACHER, detail=detail, field=field)
    sys.stdout.write(error.model_dump_json() + "\n")
    return 1


def _mapped_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
