"""Every method as a whole job: what it trains, what it leaves, and what it refuses."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import lit_core
from lit_core.data import DatasetError
from lit_core.trainer import environment
from lit_core.trainer.job import run_job
from lit_core.trainer.supervision import DeadlineWatch
from lit_core.training.loop import Drained
from lit_core.training.task import Refused
from lit_spec import Architecture, ErrorType, JobRequest, resolve
from lit_spec.trainer.messages import TeacherMeasured
from lit_spec.trainer.report import Report
from tests.lit_core.trainer.test_training import KeptMessages, inspected, stripes, weights, write_dataset

ONE_EACH = {"lit": {"epochs": 1, "learning_rate": 0.05}, "fine_tune": {"epochs": 1, "learning_rate": 0.02}}
SPLIT = np.repeat(["train", "val", "test"], [120, 60, 60])
LIT_ALONE = {"lit": {"epochs": 1}, "fine_tune": {"epochs": 0}}


class StopsAt:
    """A watch that asks for a stop when it has been looked at so often."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def stop_requested(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def run(folder: Path, teacher: Path, arrays: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The report of one job, run in this process."""
    prepare(folder, teacher, arrays, **changes)
    return train_in(folder)


def train_in(folder: Path) -> dict[str, Any]:
    """The report of the job that is prepared there, run in this process."""
    run_job(folder, KeptMessages(), DeadlineWatch())
    return read_report(folder)


def read_report(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "output" / "report.json").read_text())
    # What the trainer writes is what the model reads and writes.
    assert Report.model_validate(report).as_json() == report
    return report


def prepare(folder: Path, teacher: Path, arrays: dict[str, Any] | None = None, **changes: Any) -> None:
    folder.mkdir()
    (folder / "teacher.safetensors").write_bytes(teacher.read_bytes())
    x, y = stripes()
    write_dataset(folder / "dataset", **(arrays or {"x": x, "y": y}))
    request = {
        "teacher": "upl_t",
        "dataset": {"upload": "upl_d"},
        "student": {"depth": 14, "select": "even"},
        "schedule": ONE_EACH,
        "exports": [],
        **changes,
    }
    spec = resolve(JobRequest.model_validate(request), inspected(teacher))
    (folder / "spec.json").write_text(spec.model_dump_json())
    (folder / "run.json").write_text(json.dumps({"device": "cpu", "threads": 1, "attempt": 1}))


@pytest.fixture(scope="module")
def lit_job(tmp_path_factory: pytest.TempPathFactory, teacher_file: Path) -> Path:
    """The folder of a finished job with the defaults of `prepare`."""
    folder = tmp_path_factory.mktemp("lit") / "job"
    run(folder, teacher_file)
    return folder


@pytest.fixture(scope="module")
def prune_job(tmp_path_factory: pytest.TempPathFactory, teacher_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("prune") / "job"
    run(folder, teacher_file, method="prune")
    return folder


@pytest.fixture(scope="module")
def job_without_fine_tuning(tmp_path_factory: pytest.TempPathFactory, teacher_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("without") / "job"
    run(folder, teacher_file, schedule=LIT_ALONE, accept={"max_accuracy_drop": 3})
    return folder


@pytest.mark.parametrize(
    ("method", "losses"),
    [
        ("lit", {"kd_loss", "ir_loss", "ir_loss_1"}),
        ("kd", {"kd_loss"}),
        ("at", {"kd_loss", "attention_loss"}),
        ("scratch", {"label_loss"}),
        ("prune", {"kd_loss"}),
    ],
)
def test_a_method_trains_and_reports_its_own_losses(
    tmp_path: Path, request: pytest.FixtureRequest, teacher_file: Path, method: str, losses: set[str]
) -> None:
    if method in ("lit", "prune"):
        folder = request.getfixturevalue(f"{method}_job")
        report = read_report(folder)
    else:
        folder = tmp_path / "job"
        report = run(folder, teacher_file, method=method)
    assert report["method"] == method
    assert [(e["phase"], e["epoch"]) for e in report["epochs"]] == [("lit", 1), ("fine_tune", 1)]
    found = {name for name in report["epochs"][0] if name.endswith("loss") or "loss_" in name} - {"loss"}
    assert losses <= found
    assert report["student"]["accuracy"]["test"] > (34 if method == "scratch" else 60)
    model = lit_core.load(folder / "output")
    x, y = stripes()
    right = sum(
        int(found) == label for found, label in zip(model.classify(torch.from_numpy(x)[:, None]), y, strict=True)
    )
    assert right > 0.3 * len(y)


def test_a_teacher_in_bfloat16_is_measured_and_its_training_goes_on_to_the_same_bits(
    tmp_path: Path, teacher_file: Path, lit_job: Path
) -> None:
    report = run(tmp_path / "whole", teacher_file, teacher_precision="bfloat16")
    assert "teacher_precision" not in read_report(lit_job)
    measured = report["teacher_precision"]
    assert (measured["precision"], measured["samples"]) == ("bfloat16", report["samples"]["val"])
    assert measured["agreement"] > 90
    assert all(0 < error < 0.05 for error in measured["representation_errors"])
    prepare(tmp_path / "broken", teacher_file, teacher_precision="bfloat16")
    with pytest.raises(Drained):
        run_job(tmp_path / "broken", KeptMessages(), StopsAt(2))
    train_in(tmp_path / "broken")
    whole, exact, broken = map(weights, (tmp_path / "whole", lit_job, tmp_path / "broken"))
    assert whole == broken != exact


@pytest.mark.parametrize(("method", "beta"), [("born-again-kd", 0.5), ("born-again-lit", 0.0)])
def test_born_again_networks_have_the_teachers_depth(
    tmp_path: Path, teacher_file: Path, method: str, beta: float
) -> None:
    report = run(tmp_path / "job", teacher_file, method=method, beta=beta, student={})
    assert report["student"]["blocks"] == report["teacher"]["blocks"] == [3, 3, 3]
    assert report["ratios"]["parameters"] == 1
    teacher, student = load_file(teacher_file), load_file(tmp_path / "job" / "output" / "model.safetensors")
    assert not torch.equal(teacher["layer1.0.conv1.weight"], student["layer1.0.conv1.weight"])


def test_pruning_leaves_as_many_parameters_as_the_student_has(lit_job: Path, prune_job: Path) -> None:
    shallow, pruned = read_report(lit_job), read_report(prune_job)
    assert pruned["student"]["parameters"] == shallow["student"]["parameters"]
    state = load_file(prune_job / "output" / "model.safetensors")
    config = json.loads((prune_job / "output" / "config.json").read_text())
    assert config["architecture"]["blocks"] == [3, 3, 3]
    trained = sum(v.numel() for k, v in state.items() if "running" not in k and "tracked" not in k)
    zeros = sum(int((v == 0).sum()) for k, v in state.items() if v.ndim > 1)
    assert trained - zeros == pruned["student"]["parameters"]


def test_pruning_filters_leaves_no_more_than_the_student_has(tmp_path: Path, teacher_file: Path, lit_job: Path) -> None:
    shallow = read_report(lit_job)["student"]["parameters"]
    pruned = run(tmp_path / "prune", teacher_file, method="prune", pruning="filters")["student"]["parameters"]
    assert 0.7 * shallow < pruned <= shallow
    state = load_file(tmp_path / "prune" / "output" / "model.safetensors")
    filters = state["layer1.1.conv1.weight"].flatten(1)
    assert 0 < int((filters == 0).all(1).sum()) == int((filters == 0).any(1).sum()) < len(filters)


def test_scratch_takes_nothing_from_the_teacher_and_random_its_ends(tmp_path: Path, teacher_file: Path) -> None:
    still = {"lit": {"epochs": 1, "learning_rate": 1e-12}, "fine_tune": {"epochs": 0}}
    teacher = load_file(teacher_file)

    def student(name: str, **changes: Any) -> dict[str, torch.Tensor]:
        run(tmp_path / name, teacher_file, schedule=still, **changes)
        return load_file(tmp_path / name / "output" / "model.safetensors")

    def same(state: dict[str, torch.Tensor], name: str) -> bool:
        return torch.allclose(state[name], teacher[name], atol=1e-6)

    scratch = student("scratch", method="scratch")
    assert not same(scratch, "conv1.weight")
    assert not same(scratch, "fc.weight")
    inherited = student("inherited", method="scratch", student={"depth": 14, "init": "inherit"})
    assert same(inherited, "conv1.weight")
    assert same(inherited, "layer2.0.conv1.weight")
    anew = student("anew", method="kd", student={"depth": 14, "init": "random"})
    assert same(anew, "fc.weight")
    assert not same(anew, "layer2.0.conv1.weight")


def test_without_labels_the_teacher_alone_is_learnt_from(tmp_path: Path, teacher_file: Path) -> None:
    x, y = stripes()
    split = np.arange(len(y)) % 3
    hidden = {"x": x, "y": np.where(split == 2, y, -1), "split": split}
    dataset = {"upload": "upl_d", "unlabelled": -1}
    report = run(tmp_path / "job", teacher_file, hidden, dataset=dataset, alpha=0, beta=0, feed="scheduled")
    assert report["selected"]["by"] == "agreement on the validation split"
    assert report["student"]["accuracy"]["val"] is None
    assert report["student"]["agreement"]["val"] > 60
    assert report["student"]["accuracy"]["test"] > 60
    assert report["accuracy_drop_is"] == "measured"
    nothing = {"x": x, "split": split}
    report = run(tmp_path / "none", teacher_file, nothing, alpha=0, accept={"max_accuracy_drop": 50})
    assert report["accuracy_drop"] == pytest.approx(100 - report["student"]["agreement"]["test"])
    assert report["accuracy_drop_is"] == "bounded by agreement"
    assert report["accepted"] is (report["accuracy_drop"] <= 50)


@pytest.mark.parametrize(("changes", "field"), [({"alpha": 0.5}, "alpha"), ({"method": "scratch"}, "method")])
def test_labels_that_are_needed_and_missing_are_an_error(
    tmp_path: Path, teacher_file: Path, changes: dict[str, Any], field: str
) -> None:
    x, _ = stripes()
    with pytest.raises(DatasetError, match="no labels") as caught:
        run(tmp_path / "job", teacher_file, {"x": x}, **changes)
    assert caught.value.field == field


@pytest.mark.usefixtures("short_races")
def test_a_few_unlabelled_samples_and_the_preset_for_them(tmp_path: Path, teacher_file: Path) -> None:
    short = {"steps_per_epoch": 3, "lit": {"epochs": 2}, "fine_tune": {"epochs": 1}}
    report = run(
        tmp_path / "job",
        teacher_file,
        preset="few",
        dataset={"upload": "upl_d", "train_samples": 20, "labels": False},
        student={"depth": 14},
        schedule=short,
    )
    spec = report["specification"]
    assert (spec["alpha"], spec["beta"], spec["feed"], spec["race"]) == (0, 0, "student", True)
    assert report["race"]["racers"][0]["method"] == "lit"
    assert set(report["baselines"]) == {"untrained", "repaired"}
    assert report["samples"]["train"] == 20
    assert [e["phase"] for e in report["epochs"]] == ["lit", "lit", "fine_tune"]


@pytest.mark.parametrize(("repair", "baselines"), [(True, {"untrained", "repaired"}), (False, {"untrained"})])
def test_a_student_of_named_blocks_is_repaired_where_that_is_asked_for(
    tmp_path: Path, teacher_file: Path, repair: bool, baselines: set[str]
) -> None:
    student = {"kept": [[0, 1], [0, 1], [0]], "repair": repair}
    report = run(tmp_path / "job", teacher_file, student=student, method="mimic", schedule=ONE_EACH)
    assert set(report["baselines"]) == baselines


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"feed": "scheduled", "beta": 0.4, "schedule": {"steps_per_epoch": 5, **ONE_EACH}}, marks=pytest.mark.long
        ),
        {"feed": "scheduled", "beta": 0, "noise": 0.1, "n_random": 40},
        {"method": "prune"},
        {
            "method": "at",
            "schedule": {"optimizer": "adam", **ONE_EACH},
            "student": {"depth": 14, "init": "random"},
        },
    ],
    ids=["scheduled", "noise", "prune", "adam and random"],
)
def test_a_training_that_is_broken_off_ends_with_the_same_bits(
    tmp_path: Path, teacher_file: Path, changes: dict[str, Any]
) -> None:
    run(tmp_path / "whole", teacher_file, **changes)
    broken = tmp_path / "broken"
    prepare(broken, teacher_file, **changes)
    drains = 0
    for looks in (1, 2, 2, 1, 1000):
        try:
            run_job(broken, KeptMessages(), StopsAt(looks))
        except Drained:
            drains += 1
    assert drains == 4
    assert len(read_report(broken)["resumes"]) == 4
    whole, found = (tmp_path / name / "output" / "model.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == found.read_bytes()


def test_random_inputs_are_added_to_the_training_split(tmp_path: Path, teacher_file: Path, lit_job: Path) -> None:
    plain = read_report(lit_job)
    noisy = run(tmp_path / "noisy", teacher_file, n_random=64, noise=0.1)
    assert noisy["samples"] == plain["samples"]
    assert noisy["epochs"][0]["loss"] != plain["epochs"][0]["loss"]
    assert noisy["student"]["accuracy"]["test"] > 60


def write_images(path: Path) -> None:
    """Training images without labels, and test images in class folders."""
    x, y = stripes()
    with zipfile.ZipFile(path, "w") as archive:
        for row, (image, label) in enumerate(zip(x, y, strict=True)):
            content = io.BytesIO()
            Image.fromarray(image).save(content, "PNG")
            archive.writestr(f"test/{label}/{row}.png" if row >= 180 else f"train/{row}.png", content.getvalue())


def test_images_without_labels_teach_and_labelled_ones_measure(tmp_path: Path, teacher_file: Path) -> None:
    folder = tmp_path / "job"
    prepare(folder, teacher_file, alpha=0, schedule=LIT_ALONE)
    write_images(folder / "dataset")
    report = train_in(folder)
    assert report["selected"]["by"] == "agreement on the validation split"
    for network in ("teacher", "student"):
        assert report[network]["accuracy"]["val"] is None
        assert report[network]["accuracy"]["test"] > 60
    assert lit_core.load(folder / "output").classes == ["0", "1", "2"]


def test_the_frozen_stem_and_head_are_the_teachers_after_the_lit_phase(
    teacher_file: Path, job_without_fine_tuning: Path
) -> None:
    teacher = load_file(teacher_file)
    student = load_file(job_without_fine_tuning / "output" / "model.safetensors")
    for name in student:
        same = torch.equal(student[name], teacher[name])
        assert same == name.startswith(("conv1.", "bn1.", "fc.")), name


def test_another_seed_gives_other_weights(tmp_path: Path, teacher_file: Path, lit_job: Path) -> None:
    assert read_report(lit_job)["specification"]["seed"] == 0
    run(tmp_path / "job", teacher_file, seed=1)
    assert weights(tmp_path / "job") != weights(lit_job)


def test_a_teacher_near_chance_is_refused_before_training(tmp_path: Path, teacher_file: Path) -> None:
    x, y = stripes()
    with pytest.raises(Refused) as refused:
        run(tmp_path / "job", teacher_file, {"x": x, "y": (y + 1) % 3})
    error = refused.value.error
    assert error.type == ErrorType.TEACHER_NEAR_CHANCE
    assert "dataset.mean" in error.detail
    assert "dataset.class_order" in error.detail
    assert not (tmp_path / "job" / "checkpoint.pt").exists()


@pytest.mark.parametrize("right", [1, 2])
def test_too_few_samples_to_judge_a_teacher_by_are_a_note(tmp_path: Path, teacher_file: Path, right: int) -> None:
    """Of three validation samples, `right` have the label that the teacher gives them."""
    x, y = stripes()
    split = np.full(len(y), 0)
    split[:3], split[3:60] = 1, 2
    y[right:3] = (y[right:3] + 1) % 3
    prepare(tmp_path / "job", teacher_file, {"x": x, "y": y, "split": split}, schedule=LIT_ALONE)
    kept = KeptMessages()
    result = run_job(tmp_path / "job", kept, DeadlineWatch()).summary()
    (measured,) = (message.data for message in kept.messages if isinstance(message, TeacherMeasured))
    assert measured["accuracy"] == pytest.approx(100 * right / 3)
    assert result.notes[0] == measured["note"]
    assert "on the 3 labelled samples of the validation split" in measured["note"]
    assert "dataset.class_order" in measured["note"]


@pytest.mark.parametrize("labelled", ["some of the validation split", "the test split alone"])
def test_whatever_is_labelled_shows_a_teacher_near_chance(tmp_path: Path, teacher_file: Path, labelled: str) -> None:
    x, y = stripes()
    split = np.full(len(y), 0)
    split[:100], split[100:200] = 1, 2
    y = (y + 1) % 3
    y[:50] = -1
    if labelled == "the test split alone":
        y[:100] = -1
    with pytest.raises(Refused) as refused:
        run(
            tmp_path / "job",
            teacher_file,
            {"x": x, "y": y, "split": split},
            dataset={"upload": "upl_d", "unlabelled": -1},
        )
    assert refused.value.error.type == ErrorType.TEACHER_NEAR_CHANCE
    said = "50 labelled samples of the val" if labelled.startswith("some") else "100 labelled samples of the test"
    assert said in refused.value.error.detail


def test_a_teacher_above_chance_needs_no_note(job_without_fine_tuning: Path) -> None:
    notes = read_report(job_without_fine_tuning)["notes"]
    assert not [note for note in notes if note.startswith("the teacher")]


def test_labels_outside_the_teachers_classes_are_refused_before_training(tmp_path: Path, teacher_file: Path) -> None:
    x, y = stripes()
    y[17] = 3
    with pytest.raises(DatasetError, match="17"):
        run(tmp_path / "job", teacher_file, {"x": x, "y": y})
    assert not (tmp_path / "job" / "checkpoint.pt").exists()


def test_a_loaded_folder_must_fit(tmp_path: Path, job_without_fine_tuning: Path) -> None:
    output = shutil.copytree(job_without_fine_tuning / "output", tmp_path / "output")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        lit_core.load(output, "report.json")
    config = json.loads((output / "config.json").read_text())
    Architecture.model_validate(config["architecture"])
    config["architecture"]["blocks"] = [3, 2, 2]
    (output / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="doesn't fit"):
        lit_core.load(output)
    with pytest.raises(FileNotFoundError):
        lit_core.load(tmp_path)


def test_a_teacher_below_what_is_expected_of_it_is_refused_before_training(tmp_path: Path, teacher_file: Path) -> None:
    x, y = stripes()
    y = np.where(np.arange(len(y)) % 10 < 3, (y + 1) % 3, y)  # right in 70 %
    with pytest.raises(Refused) as refused:
        run(tmp_path / "job", teacher_file, {"x": x, "y": y, "split": SPLIT}, teacher_accuracy=99)
    error = refused.value.error
    assert (error.type, error.field) == (ErrorType.TEACHER_BELOW_EXPECTED, "teacher_accuracy")
    for words in ("60 labelled samples", "95 % interval", "99 %", "dataset.mean"):
        assert words in error.detail


def test_the_expected_accuracy_is_checked_on_the_samples_that_have_labels(tmp_path: Path, teacher_file: Path) -> None:
    x, y = stripes()
    partly = np.where((SPLIT == "val") & (np.arange(len(y)) % 4 > 0), -1, y)
    dataset = {"upload": "upl_d", "unlabelled": -1}
    changes = {"alpha": 0, "schedule": LIT_ALONE, "teacher_accuracy": 97, "dataset": dataset}
    report = run(tmp_path / "job", teacher_file, {"x": x, "y": partly, "split": SPLIT}, **changes)
    measured = report["teacher_accuracy"]
    assert (measured["samples"], measured["expected"]) == (15, 97)
    assert measured["interval"][0] < measured["accuracy"] <= measured["interval"][1]
    assert report["teacher"]["accuracy"]["val"] is None
    without = np.where(np.isin(SPLIT, ["val", "test"]), -1, y)
    with pytest.raises(Refused, match="split has labels") as refused:
        run(tmp_path / "none", teacher_file, {"x": x, "y": without, "split": SPLIT}, **changes)
    assert refused.value.error.field == "teacher_accuracy"


def test_too_few_test_samples_to_accept_the_student_are_told(job_without_fine_tuning: Path) -> None:
    report = read_report(job_without_fine_tuning)
    low, high = report["accuracy_drop_interval"]
    assert low <= report["accuracy_drop"] <= high
    assert report["accuracy_drop_samples"] == report["samples"]["test"] == 24
    undecided = [note for note in report["notes"] if "don't decide" in note]
    assert len(undecided) == (low <= 3 < high) == 1
    assert "24 samples" in undecided[0]


def test_a_format_whose_package_the_worker_lacks_is_refused_before_the_training(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "is_installed", lambda: False)
    with pytest.raises(Refused, match=r"lit-compress\[openvino\]") as refused:
        run(tmp_path / "job", teacher_file, exports=["onnx", "openvino"])
    assert (refused.value.error.type, refused.value.error.field) == (ErrorType.BAD_SPECIFICATION, "exports")
    assert not (tmp_path / "job/output").exists()


def test_a_job_writes_openvino_and_says_how_fast_it_is(tmp_path: Path, teacher_file: Path) -> None:
    pytest.importorskip("openvino", reason="the package openvino is not installed")
    (export,) = run(tmp_path / "job", teacher_file, student={"depth": 8}, exports=["openvino"])["exports"]
    assert (export["kind"], export["file"], export["error"]) == ("openvino", "model.openvino.zip", None)
    assert set(export["latency"]) == {"batch_1", "batch_32"}
    with zipfile.ZipFile(tmp_path / "job/output/model.openvino.zip") as archive:
        assert '<classes value="[&quot;' in archive.read("model.xml").decode()
