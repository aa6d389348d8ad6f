"""Which option of a command gives which field of a request, so that a refusal names the option as well."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from lit_spec import Library

SET, ARCHITECTURE = "--set", "--architecture"
OPTIONS: Mapping[str, str] = {
    "accept.max_accuracy_drop": "--max-accuracy-drop",
    "alpha": "--alpha",
    "architecture": ARCHITECTURE,
    "beta": "--beta",
    "dataset": "--dataset",
    "dataset.builtin": "--dataset",
    "dataset.columns": "--columns",
    "dataset.labels": "--no-labels",
    "dataset.size": "--size",
    "dataset.test_upload": "--test-dataset",
    "dataset.unlabelled": "--unlabelled",
    "dataset.upload": "--dataset",
    "dataset.url": "--dataset",
    "device": "--device",
    "devices": "--devices",
    "discriminator": "--discriminator",
    "exports": "--export",
    "feed": "--feed",
    "method": "--method",
    "name": "--name",
    "nodes": "--nodes",
    "preset": "--preset",
    "register": "--register",
    "schedule.batch_size": "--batch-size",
    "schedule.fine_tune.epochs": "--fine-tune-epochs",
    "schedule.fine_tune.learning_rate": "--fine-tune-learning-rate",
    "schedule.lit.epochs": "--epochs",
    "schedule.lit.learning_rate": "--learning-rate",
    "seed": "--seed",
    "shard_teacher": "--shard-teacher",
    "student": "--depth",
    "student.blocks": "--blocks",
    "student.depth": "--depth",
    "student.init": "--init",
    "student.kept": "--kept",
    "student.ratio": "--ratio",
    "student.repair": "--repair",
    "student.select": "--select",
    "student.target": "--target",
    "student.target.latency_ratio": "--speedup",
    "tags": "--tag",
    "tau": "--tau",
    "teacher_accuracy": "--expect-accuracy",
    "teacher_cache": "--teacher-cache",
    "teacher_precision": "--teacher-precision",
    "teacher_weights": "--teacher-weights",
    "tensorboard": "--tensorboard",
    "then": "--then",
    "track.mlflow.experiment": "--track-experiment",
}
"""By the field of a job's request. What has no option of its own is set with `--set`."""
STUDY_OPTIONS: Mapping[str, str] = {
    "alphas": "--alphas",
    "batch": "--batch",
    "betas": "--betas",
    "depths": "--depths",
    "front": "--front",
    "inits": "--init",
    "max_accuracy_drop": "--max-accuracy-drop",
    "methods": "--method",
    "name": "--name",
    "repair": "--repair",
    "seeds": "--seeds",
    "students": "--students",
    "tags": "--tag",
    "taus": "--taus",
}
"""The same of a study's request, in which the job's fields begin with `job.`."""
JOB_OF_A_STUDY = "job."
OBJECTS = {"dataset", "student"}
"""Their options don't give the fields inside of them."""
WITHOUT_OPTION = {"teacher", "body"}
"""The teacher is the command's argument."""
NETWORK = re.compile(rf"(?<![\w/])(?:{'|'.join(Library)})/\w+(?:\.\w+)*")
"""A library's network, as the option for it takes it."""


def with_options(text: str, fields: Iterable[str], offered: Collection[str]) -> str:
    """A refusal in which the first mention of each refused field is followed by its option, if it is one of those that
    the command offers."""
    for field in dict.fromkeys(fields):
        option = _option(field, offered)
        mention = _mention(field, text)
        if option is not None and mention is not None:
            if option == ARCHITECTURE and (network := NETWORK.search(text)) is not None:
                option = f"{option} {network[0]}"
            text = f"{text[: mention.end()]} ({option}){text[mention.end() :]}"
    return text


def _mention(field: str, text: str) -> re.Match[str] | None:
    """Where a text first names a field. One without a dot may also be a word, or a part of a file's name."""
    # An inspection doesn't know that it is for a study; and a text may name a part of the field.
    of_job = field.removeprefix(JOB_OF_A_STUDY)
    name = rf"(?:{re.escape(JOB_OF_A_STUDY)})?{re.escape(of_job)}"
    if "." in of_job:
        return re.search(rf"(?<![\w.-]){name}(?:\.\w+)*(?![\w-])", text)
    begins = rf"(?:^\s*|(?<=[:;] )){name}(?=:| is )"
    quoted = rf"(?P<quote>[`'\"]){name}(?P=quote)"
    ends = rf"(?<=\bas ){name}(?:\.\w+)*(?=[,;.)]|$)"
    return re.search(f"{begins}|{quoted}|{ends}", text, re.MULTILINE)


def _option(field: str, offered: Collection[str]) -> str | None:
    of_job = field.removeprefix(JOB_OF_A_STUDY)
    options = OPTIONS if of_job != field or "--seeds" not in offered else STUDY_OPTIONS
    parts = of_job.split(".")
    for length in range(len(parts), 0, -1):
        outer = ".".join(parts[:length])
        if (outer == of_job or outer not in OBJECTS) and (option := options.get(outer)) in offered:
            return option
    is_of_job = options is OPTIONS and parts[0] not in WITHOUT_OPTION
    return f"{SET} {of_job}=…" if is_of_job and SET in offered else None
