"""`python -m lit_core.trainer.inspect FILE FOLDER --kind KIND`: read an uploaded file in a separate process.

Writes FOLDER/inspection.json, and of a teacher FOLDER/teacher.safetensors, and exits with 0. For a file that can't be
used it prints a JobError as JSON and exits with 1. An upload may be hostile, so the process first limits its memory and
time.
"""

from __future__ import annotations

import argparse
import resource
import sys
from importlib import import_module
from pathlib import Path

from lit_spec import DatasetInspection, ErrorType, Inspection, JobError, LibraryRequest, TeacherWeights
from lit_spec.states import UploadKind
from lit_spec.trainer.folder import INSPECTION_FILE, TEACHER_FILE, TrainerExit

READERS = {UploadKind.TEACHER: "lit_core.networks.teacher", UploadKind.DATASET: "lit_core.data.inspection"}
"""The modules that read. They are loaded before memory is limited."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lit_core.trainer.inspect", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", type=UploadKind, choices=UploadKind, default=UploadKind.TEACHER)
    parser.add_argument("--memory", type=int, help="limit of the address space in bytes")
    parser.add_argument("--cpu", type=int, help="limit of the processor time in seconds")
    parser.add_argument("--architecture", type=Path, help="JSON file with a LibraryRequest")
    parser.add_argument("--weights", type=TeacherWeights, help="raw or ema, where the file has both")
    arguments = parser.parse_args()
    if arguments.cpu:
        resource.setrlimit(resource.RLIMIT_CPU, (arguments.cpu, arguments.cpu))
    import_module(READERS[arguments.kind])
    from lit_core.measuring.memory import is_out_of_memory

    if arguments.memory:
        # Set after torch is loaded, because its libraries map more address space than any checkpoint needs.
        resource.setrlimit(resource.RLIMIT_AS, (_mapped_bytes() + arguments.memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        if arguments.kind is UploadKind.DATASET:
            return _inspect_dataset(arguments.file, arguments.folder, arguments.cpu)
        return _inspect_teacher(arguments.file, arguments.folder, arguments.architecture, arguments.weights)
    except (MemoryError, RuntimeError) as failure:
        if not isinstance(failure, MemoryError) and not is_out_of_memory(failure):
            raise
        more = "needs more memory than an inspection may use: raise LIT_INSPECT_MEMORY_BYTES on the workers"
        if arguments.kind is UploadKind.DATASET:
            return _write(arguments.folder, DatasetInspection.not_read(f"the data set {more}"))
        return _refuse(arguments.kind, f"the checkpoint {more}")


def _inspect_teacher(file: Path, folder: Path, architecture: Path | None, weights: TeacherWeights | None) -> int:
    from safetensors.torch import save_file

    from lit_core.networks.teacher import TeacherError, check_outputs_are_finite, inspect_teacher, read_teacher
    from lit_core.seeding import seeded

    named = None if architecture is None else LibraryRequest.model_validate_json(architecture.read_bytes())
    try:
        # Where values are needed to find a network's sections, they are always the same.
        with seeded(0):
            teacher = read_teacher(file, named, weights)
            check_outputs_are_finite(teacher)
            inspection = inspect_teacher(teacher)
        save_file(teacher.state, folder / TEACHER_FILE)
    except TeacherError as failure:
        return _refuse(UploadKind.TEACHER, str(failure), failure.field)
    return _write(folder, inspection)


def _inspect_dataset(file: Path, folder: Path, seconds: int | None) -> int:
    from lit_core.data.errors import DatasetError
    from lit_core.data.inspection import SECONDS, inspect_dataset

    try:
        inspection = inspect_dataset(file, seconds=min(SECONDS, (seconds or SECONDS) / 4))
    except DatasetError as failure:
        return _refuse(UploadKind.DATASET, failure.detail, failure.field, failure.member)
    return _write(folder, inspection)


def _write(folder: Path, inspection: Inspection | DatasetInspection) -> int:
    (folder / INSPECTION_FILE).write_text(inspection.model_dump_json())
    return TrainerExit.DONE


def _refuse(kind: UploadKind, detail: str, field: str | None = None, member: str | None = None) -> int:
    if kind is UploadKind.DATASET:
        error = JobError(type=ErrorType.BAD_DATASET, detail=detail, field=field or "dataset.upload", member=member)
    else:
        error = JobError(type=ErrorType.BAD_TEACHER, detail=detail, field=field or "teacher")
    sys.stdout.write(error.model_dump_json() + "\n")
    return TrainerExit.FAILED


def _mapped_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
