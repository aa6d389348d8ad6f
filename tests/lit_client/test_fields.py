"""Refusals name the option that gives the field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from lit_client.command.cli import app
from lit_client.command.fields import OPTIONS, STUDY_OPTIONS, with_options
from lit_spec import ErrorType, JobError, JobRequest
from lit_spec.requests.study import STUDY_REQUESTS
from tests.lit_client.command import NOWHERE, litc
from tests.lit_client.scripted_worker import ScriptedWorker


def paths_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for attribute, field in model.model_fields.items():
        name = field.alias or attribute
        yield f"{prefix}{name}"
        inner = [
            kind for kind in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(kind, type)
        ]
        for kind in inner:
            if issubclass(kind, BaseModel) and kind is not model:
                yield from paths_of(kind, f"{prefix}{name}.")


def options_of(*names: str) -> set[str]:
    command: Any = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    return {option for parameter in command.params for option in parameter.opts}


def test_every_option_and_its_field_exist() -> None:
    assert set(OPTIONS) <= set(paths_of(JobRequest))
    assert set(OPTIONS.values()) <= options_of("compress")
    assert set(STUDY_OPTIONS) <= {path for kind in STUDY_REQUESTS.values() for path in paths_of(kind)}
    studies = [options_of("study", kind) for kind in ("compare", "search", "depth")]
    assert set(STUDY_OPTIONS.values()) <= set().union(*studies, options_of("plan"))


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("student.depth: no such student", "student.depth", "student.depth (--depth): no such student"),
        ("give it as architecture, or not", "architecture", "give it as architecture (--architecture), or not"),
        ("give by_order as architecture.rename", "architecture", "as architecture.rename (--architecture)"),
        ("teacher_weights is ema, but", "job.teacher_weights", "teacher_weights (--teacher-weights) is ema, but"),
        ("job.student.depth: is 0", "job.student.depth", "job.student.depth (--depth): is 0"),
        ("schedule.patience: is 0", "schedule.patience", "schedule.patience (--set schedule.patience=…): is 0"),
        ("dataset.mean: is 0", "dataset.mean", "dataset.mean (--set dataset.mean=…): is 0"),
        ("student.kept.1: is not", "student.kept.1", "student.kept.1 (--kept): is not"),
        ("student: give exactly one", "student", "student (--depth): give exactly one"),
        ("architectures differ", "architecture", "architectures differ"),
        ("Two are wrong.\n  name: is long", "name", "\n  name (--name): is long"),
        (
            "it has the tensors of timm/resnet18.a1_in1k: give this as architecture",
            "architecture",
            "give this as architecture (--architecture timm/resnet18.a1_in1k)",
        ),
        (
            "give its name as architecture, such as torchvision/resnet18",
            "architecture",
            "give its name as architecture (--architecture torchvision/resnet18), such as torchvision/resnet18",
        ),
        ("a.pt can't be used: teacher_weights is ema", "teacher_weights", "teacher_weights (--teacher-weights) is ema"),
        ('the job has a "seed" already', "seed", 'the job has a "seed" (--seed) already'),
        ("teacher_weights.pt can't be used", "teacher_weights", "teacher_weights.pt can't be used"),
        ("dataset.zip can't be used: it is cut off", "dataset", "dataset.zip can't be used: it is cut off"),
        ("of this device: a name is too long", "name", "of this device: a name is too long"),
        ("set dataset.size to resize all", "dataset.size", "set dataset.size (--size) to resize all"),
        ("teacher: is a data set", "teacher", "teacher: is a data set"),
    ],
)
def test_the_first_mention_of_a_refused_field_has_its_option(text: str, field: str, said: str) -> None:
    assert with_options(text, [field], options_of("compress")).endswith(said)


def test_only_options_of_the_command_are_named() -> None:
    text = "student.depth: is 0; teacher_weights: is best"
    fields = ["student.depth", "teacher_weights"]
    assert with_options(text, fields, options_of("inspect")) == (
        "student.depth: is 0; teacher_weights (--teacher-weights): is best"
    )
    assert with_options("max_accuracy_drop: is -1", ["max_accuracy_drop"], options_of("study", "depth")) == (
        "max_accuracy_drop (--max-accuracy-drop): is -1"
    )


@pytest.mark.parametrize("command", [("inspect",), ("compress", "--dataset", "digits", "--depth", 14, "-o", "out")])
def test_a_refused_teacher_names_the_option_to_use(
    url: str, worker: ScriptedWorker, teacher: Path, command: tuple[object, ...], tmp_path: Path
) -> None:
    words = [tmp_path / "out" if word == "out" else word for word in command]
    for field, detail, said in (
        ("architecture", "it has the tensors of a/b: give this as architecture", "as architecture (--architecture)"),
        ("teacher_weights", "teacher_weights is ema, but", "teacher_weights (--teacher-weights) is ema, but"),
    ):
        worker.inspection = JobError(type=ErrorType.BAD_TEACHER, detail=detail, field=field)
        done = litc(url, words[0], teacher, *words[1:], "--architecture", f"timm/{field}")
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr


def test_a_request_that_is_wrong_names_the_options(teacher: Path, tmp_path: Path) -> None:
    wrong = ("--dataset", "digits", "--depth", 0, "--set", "schedule.steps_per_epoch=0")
    said = litc(NOWHERE, "compress", teacher, "--output", tmp_path / "out", *wrong).stderr
    assert "student.depth (--depth): " in said
    assert "schedule.steps_per_epoch (--set schedule.steps_per_epoch=…): " in said
