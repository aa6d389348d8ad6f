"""Seed, phase, epoch and step decide a training: of a network with dropout and stochastic depth, in bfloat16."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import lit_core
from lit_core.networks.teacher import inspect_teacher, read_teacher
from lit_core.trainer.job import run_job
from lit_core.training.checkpoint import load_checkpoint, save_checkpoint
from lit_core.training.loop import Drained
from lit_spec import Inspection, JobRequest, Library, LibraryRequest, resolve
from lit_spec.trainer.folder import CHECKPOINT_FILE
from tests.lit_core.trainer.forked import ForkedTrainer
from tests.lit_core.trainer.test_methods import StopsAt, read_report
from tests.lit_core.trainer.test_training import (
    KeptMessages,
    run_process,
    stripes,
    types_of,
    weights,
    write_dataset,
)

VIT = {
    "img_size": 8,
    "patch_size": 2,
    "in_chans": 1,
    "num_classes": 3,
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 2,
    "pos_drop_rate": 0.1,
    "proj_drop_rate": 0.2,
    "attn_drop_rate": 0.2,
    "drop_path_rate": 0.3,
}
LIBRARY = LibraryRequest(library=Library.TIMM, name="vit_tiny_patch16_224", kwargs=VIT)
SCHEDULE = {
    "batch_size": 32,
    "lit": {"epochs": 1, "learning_rate": 0.01},
    "fine_tune": {"epochs": 2, "learning_rate": 0.01},
}
STEPS = 7
"""Per epoch, with the ten random samples."""


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT that knows the stripes."""
    torch.manual_seed(0)
    network = timm.create_model(LIBRARY.name, **VIT).train()
    x, y = stripes()
    inputs, labels = torch.from_numpy(x).float()[:, None] / 255, torch.from_numpy(y)
    inputs = (inputs - inputs.mean()) / inputs.std()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(10):
        for batch in torch.randperm(len(labels)).split(24):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(inputs[batch]), labels[batch]).backward()
            optimizer.step()
    path = tmp_path_factory.mktemp("transformer") / "teacher.safetensors"
    save_file(network.state_dict(), path)
    return path


@cache
def inspected(teacher: Path) -> Inspection:
    return inspect_teacher(read_teacher(teacher, LIBRARY))


def job_folder(folder: Path, teacher: Path, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "teacher.safetensors").write_bytes(teacher.read_bytes())
    x, y = stripes()
    write_dataset(folder / "dataset", x=x, y=y)
    request = {
        "teacher": "upl_t",
        "architecture": LIBRARY,
        "dataset": {"upload": "upl_d"},
        "student": {"depth": 2, "select": "even"},
        "schedule": SCHEDULE,
        "precision": "bfloat16",
        "exports": [],
        **changes,
    }
    spec = resolve(JobRequest.model_validate(request), inspected(teacher))
    (folder / "spec.json").write_text(spec.model_dump_json())
    begin_attempt(folder, 1)
    return folder


def begin_attempt(folder: Path, attempt: int) -> None:
    (folder / "run.json").write_text(json.dumps({"device": "cpu", "threads": 1, "attempt": attempt}))


def trained(folder: Path) -> bytes:
    """The student's file, of a training in this process."""
    run_job(folder, KeptMessages(), StopsAt(10**9))
    return weights(folder)


def timeless(folder: Path) -> list[dict[str, Any]]:
    return [{**epoch, "seconds": 0} for epoch in read_report(folder)["epochs"]]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, transformer: Path) -> Path:
    """The folder of a job that a process of its own has trained at once.

    Executed and not forked, so that nothing of this process is the same: the order in sets of strings, for example.
    """
    folder = job_folder(tmp_path_factory.mktemp("unbroken") / "job", transformer)
    code, events = run_process(folder)
    assert code == 0
    assert types_of(events) == [
        "started",
        "teacher_measured",
        "epoch",
        "epoch",
        "epoch",
        "finished",
    ]
    return folder


def test_one_specification_gives_one_student_and_another_seed_another(
    tmp_path: Path, transformer: Path, unbroken: Path
) -> None:
    again = job_folder(tmp_path / "again", transformer)
    assert trained(again) == weights(unbroken)
    assert timeless(again) == timeless(unbroken)
    other = job_folder(tmp_path / "other", transformer, seed=1)
    assert trained(other) != weights(unbroken)


def test_a_terminated_trainer_goes_on_in_another_process_to_the_same_bits(
    tmp_path: Path, transformer: Path, unbroken: Path
) -> None:
    folder = job_folder(tmp_path / "job", transformer)
    trainer = ForkedTrainer(folder)
    for line in trainer.messages:
        message = json.loads(line)["type"]
        if message == "teacher_measured":
            trainer.send_signal(signal.SIGTERM)
    assert (trainer.wait(), message) == (0, "drained")
    assert not (folder / "output").exists()
    begin_attempt(folder, 2)
    assert trained(folder) == weights(unbroken)
    assert timeless(folder) == timeless(unbroken)
    (resume,) = read_report(folder)["resumes"]
    assert resume["bit_identical"]


def trained_in_pieces(folder: Path, first: int, later: int) -> None:
    """A job that asks between two steps whether to stop, and is told to after so many times, in the first attempt and
    in each later one."""
    for attempt in range(1, 100):
        begin_attempt(folder, attempt)
        torch.manual_seed(attempt)
        try:
            run_job(folder, KeptMessages(), StopsAt(first if attempt == 1 else later))
        except Drained:
            continue
        return


@pytest.mark.parametrize(
    ("first", "later", "place"),
    [
        (2, 4, (1, 3)),
        pytest.param(STEPS - 1, STEPS - 1, (1, STEPS), marks=pytest.mark.long),
        pytest.param(STEPS, STEPS, (2, 0), marks=pytest.mark.long),
    ],
    ids=["inside an epoch", "after the last step of an epoch", "between two epochs"],
)
def test_an_interrupted_training_ends_with_the_same_bits(
    tmp_path: Path, transformer: Path, first: int, later: int, place: tuple[int, int]
) -> None:
    changes = {"then": ["prune:0.5"], "augmentation": {"noise": 0.1}, "n_random": 10}
    whole = job_folder(tmp_path / "whole", transformer, **changes)
    trained(whole)
    broken = job_folder(tmp_path / "broken", transformer, **changes)
    trained_in_pieces(broken, first, later)
    assert weights(broken) == weights(whole)
    pruned = "output/model.prune-0.5.safetensors"
    assert (broken / pruned).read_bytes() == (whole / pruned).read_bytes()
    assert timeless(broken) == timeless(whole)
    resumes = read_report(broken)["resumes"]
    assert (resumes[0]["epoch"], resumes[0]["step"]) == place
    assert len(resumes) >= 3
    assert all(resume["bit_identical"] for resume in resumes)


def test_what_another_version_trained_is_not_called_bit_identical_any_more(tmp_path: Path, transformer: Path) -> None:
    folder = job_folder(tmp_path / "job", transformer)
    with pytest.raises(Drained):
        run_job(folder, KeptMessages(), StopsAt(2))
    path = folder / CHECKPOINT_FILE
    checkpoint = load_checkpoint(path)
    now = checkpoint.environment["timm"]
    save_checkpoint(replace(checkpoint, environment={**checkpoint.environment, "timm": "1.0.0"}), path)
    trained_in_pieces(folder, STEPS, STEPS)
    first, *later = read_report(folder)["resumes"]
    assert first["differences"] == {"timm": ["1.0.0", now]}
    assert not any(resume["bit_identical"] for resume in (first, *later))
    assert [resume["differences"] for resume in later] == [{}] * len(later)
    assert later


def test_loading_a_student_leaves_the_processs_own_random_numbers_as_they_are(unbroken: Path) -> None:
    torch.manual_seed(7)
    expected = torch.randn(3)
    torch.manual_seed(7)
    lit_core.load(unbroken / "output")
    assert torch.equal(torch.randn(3), expected)
