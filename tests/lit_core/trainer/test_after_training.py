"""What `then` does to a trained student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

import lit_core
from lit_core.trainer.job import run_job
from lit_core.training.loop import Drained
from lit_core.training.pruning import parameters_left, prune_by
from lit_spec import JobRequest, Phase, Pruning, SpecError, resolve
from tests.lit_core.test_compression import SCHEDULE, digits, trained
from tests.lit_core.trainer.test_methods import ONE_EACH, StopsAt, prepare, read_report, run
from tests.lit_core.trainer.test_training import KeptMessages, stripes
from tests.lit_spec.test_resolve import SMALLEST, inspection

STEPS = ["prune:0.4", "prune:0.7", "int8"]


def asked(**changes: Any) -> JobRequest:
    return JobRequest.model_validate({**SMALLEST, **changes})


def test_steps_have_one_spelling() -> None:
    assert asked(then=["prune:.30", "prune:0.75", "int8"]).then == ["prune:0.3", "prune:0.75", "int8"]
    assert resolve(asked(then=["int8"]), inspection()).then == ["int8"]
    assert resolve(asked(), inspection()).then == []


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (["prune"], 'give "prune:SHARE"'),
        (["prune:1"], "SHARE from 0.001 to 0.999"),
        (["prune:0.0"], "SHARE from 0.001 to 0.999"),
        (["prune:1.5"], "SHARE from 0.001 to 0.999"),
        (["distil"], 'or "int8"'),
        (["prune:0.9999999"], "SHARE from 0.001 to 0.999"),
        (["prune:0.00001"], "SHARE from 0.001 to 0.999"),
        (["prune:0.5", "prune:0.5"], "must grow"),
        (["prune:0.5", "prune:0.2"], "must grow"),
        (["int8", "prune:0.5"], "must be the last"),
        (["int8", "int8"], "must be the last"),
    ],
)
def test_what_is_no_step_is_told(then: list[str], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        asked(then=then)


def test_what_is_pruned_already_is_not_pruned_then() -> None:
    with pytest.raises(SpecError, match="method prune"):
        resolve(asked(method="prune", then=["prune:0.5"]), inspection())
    assert resolve(asked(method="prune", then=["int8"]), inspection()).then == ["int8"]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, teacher_file: Path) -> Path:
    """Of a job with all steps."""
    folder = tmp_path_factory.mktemp("steps") / "job"
    run(folder, teacher_file, then=STEPS, exports=["int8"])
    return folder / "output"


def test_each_step_has_a_row_and_a_file(tmp_path: Path, teacher_file: Path, output: Path) -> None:
    plain = run(tmp_path / "plain", teacher_file)
    report = read_report(output.parent)
    # The student itself is what it is without the steps.
    for name in ("accuracy", "agreement", "parameters", "blocks"):
        assert report["student"][name] == plain["student"][name]
    student = load_file(output / "model.safetensors")
    assert all(
        torch.equal(tensor, student[k])
        for k, tensor in load_file(tmp_path / "plain" / "output" / "model.safetensors").items()
    )
    assert plain["then"] == []
    rows = report["then"]
    assert [row["step"] for row in rows] == STEPS
    assert [row["file"] for row in rows] == [
        "model.prune-0.4.safetensors",
        "model.prune-0.7.safetensors",
        "model.prune-0.7.int8.onnx",
    ]
    assert all(row["file_size"] == (output / row["file"]).stat().st_size for row in rows)
    assert all(row["error"] is None for row in rows)
    teacher = report["teacher"]
    for row, share in zip(rows, (0.4, 0.7, 0.7), strict=True):
        weights = sum(tensor.numel() for name, tensor in student.items() if "weight" in name and tensor.ndim > 1)
        assert report["student"]["parameters"] - row["parameters"] == round(share * weights)
        assert row["parameters_ratio"] == round(teacher["parameters"] / row["parameters"], 4)
        assert row["accuracy_drop"] == round(teacher["accuracy"]["test"] - row["accuracy"]["test"], 4)
        assert row["agreement"]["val"] > 60
    assert [set(row["before_fine_tuning"] or {}) for row in rows] == [{"accuracy", "agreement"}] * 2 + [set()]
    epochs = [(e["phase"], e["epoch"]) for e in report["epochs"] if e["phase"] == Phase.PRUNE]
    assert epochs == [("prune", 1), ("prune", 2)]
    pruned = load_file(output / "model.prune-0.7.safetensors")
    before = load_file(output / "model.prune-0.4.safetensors")
    assert all(bool((tensor[before[name] == 0] == 0).all()) for name, tensor in pruned.items() if tensor.ndim > 1)


def test_the_files_answer_as_their_rows_say(output: Path) -> None:
    report = read_report(output.parent)
    images, y = stripes()
    raw = torch.from_numpy(images)[:, None]
    model = lit_core.load(output, "model.prune-0.4.safetensors")
    with torch.no_grad():
        own = model(model.preprocess(raw)).argmax(dim=1)
    # Of all samples, where the rows are of a split.
    accuracy = 100 * float((own == torch.from_numpy(y)).double().mean())
    assert accuracy == pytest.approx(report["then"][0]["accuracy"]["test"], abs=12)
    session = onnxruntime.InferenceSession(output / "model.prune-0.7.int8.onnx", providers=["CPUExecutionProvider"])
    answers = session.run(None, {"input": model.preprocess(raw).numpy()})[0].argmax(axis=1)
    assert 100 * float((answers == y).mean()) == pytest.approx(report["then"][2]["accuracy"]["test"], abs=12)
    assert (output / "model.int8.onnx").exists()
    with pytest.raises(FileNotFoundError):
        lit_core.load(output, "model.prune-0.5.safetensors")


@pytest.mark.parametrize("looks", [pytest.param((1, 2, 2, 3, 1000), marks=pytest.mark.long), (3, 1, 1, 1, 1, 1000)])
def test_pruning_that_is_broken_off_ends_with_the_same_bits(
    tmp_path: Path, teacher_file: Path, looks: tuple[int, ...]
) -> None:
    schedule = {"lit": {"epochs": 1, "learning_rate": 0.05}, "fine_tune": {"epochs": 2, "learning_rate": 0.02}}
    changes = {"then": ["prune:0.4", "prune:0.7"], "schedule": {**schedule, "steps_per_epoch": 2}}
    whole = run(tmp_path / "whole", teacher_file, **changes)
    broken = tmp_path / "broken"
    prepare(broken, teacher_file, **changes)
    drains = 0
    for look in looks:
        try:
            run_job(broken, KeptMessages(), StopsAt(look))
        except Drained:
            drains += 1
    report = read_report(broken)
    assert drains == len(looks) - 1 == len(report["resumes"])
    assert report["then"] == whole["then"]
    for path in (tmp_path / "whole" / "output").glob("*.safetensors"):
        assert path.read_bytes() == (broken / "output" / path.name).read_bytes()


def test_without_fine_tuning_a_student_is_pruned_as_it_is(tmp_path: Path, teacher_file: Path) -> None:
    schedule = {**ONE_EACH, "fine_tune": {"epochs": 0, "learning_rate": 0.02}}
    report = run(tmp_path / "job", teacher_file, then=["prune:0.3"], schedule=schedule)
    (row,) = report["then"]
    assert row["epoch"] == 0
    assert row["before_fine_tuning"] == {"accuracy": row["accuracy"], "agreement": row["agreement"]}


def test_filters_go_by_the_same_share_of_each_layer(tmp_path: Path, teacher_file: Path) -> None:
    report = run(tmp_path / "job", teacher_file, then=["prune:0.5"], pruning="filters")
    state = load_file(tmp_path / "job" / "output" / "model.prune-0.5.safetensors")
    kernels = {name: tensor for name, tensor in state.items() if tensor.ndim == 4}
    for name, kernel in kernels.items():
        assert int((kernel.flatten(1).abs().sum(dim=1) == 0).sum()) == len(kernel) // 2, name
    assert report["then"][0]["parameters"] < report["student"]["parameters"]


def test_the_weights_of_attention_are_pruned_as_well() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    masks = prune_by(layer, 0.5)
    assert "self_attn.in_proj_weight" in masks
    weights = sum(mask.numel() for mask in masks.values())
    assert sum(p.numel() for p in layer.parameters()) - parameters_left(layer) == weights // 2
    masks = prune_by(layer, 0.99, Pruning.FILTERS)
    assert all(bool((mask.flatten(1).sum(dim=1) > 0).any()) for mask in masks.values())


def test_in_python_each_step_gives_a_network() -> None:
    loader, test = digits()
    teacher = trained()
    made = lit_core.compress(teacher, loader, blocks=[2, 1], validation=test, schedule=SCHEDULE, then=["prune:0.3"])
    (row,) = made.report["then"]
    pruned = made.pruned["prune:0.3"]
    assert row["parameters"] == parameters_left(pruned) < made.report["student"]["parameters"]
    assert parameters_left(made.student) == made.report["student"]["parameters"]
    with torch.no_grad():
        answers = pruned.eval()(test[0][0]).argmax(dim=1)
    accuracy = 100 * float((answers == test[0][1]).double().mean())
    assert accuracy == pytest.approx(row["validation"]["student_accuracy"])
    with pytest.raises(ValueError, match="int8 is only for the service"):
        lit_core.compress(teacher, loader, blocks=[2, 1], then=["int8"])
