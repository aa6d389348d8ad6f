"""Teachers of torchvision and timm over HTTP, on real digits, to an ONNX file that anything can serve."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from lit_client import Client, LitError
from lit_core import load
from lit_core.data import Dataset, Interface, load_dataset
from lit_spec import DatasetRequest, Split
from tests.e2e.test_families import compress, train, upload_file

SIDE = 16
VIT: dict[str, Any] = {"img_size": 8, "patch_size": 2, "embed_dim": 48, "depth": 6, "num_heads": 3, "in_chans": 1}


def colour_digits(path: Path) -> Path:
    """Half of the real digits as RGB images, as torchvision's networks take them."""
    grey = load_dataset(DatasetRequest(builtin="digits"), None, None, Interface(1, 10))
    x = torch.cat([arrays.x[::2] for arrays in grey.splits.values()]).expand(-1, 3, -1, -1)
    y = torch.cat([arrays.y[::2] for arrays in grey.splits.values()])
    split = [split.value for split, arrays in grey.splits.items() for _ in arrays.y[::2]]
    np.savez(path, x=x.numpy(), y=y.numpy(), split=np.array(split))
    return path


def served(path: Path, dataset: Dataset) -> tuple[list[int], float]:
    """What onnxruntime answers to the whole test split, and how often that is right, in percent."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    test = dataset.splits[Split.TEST]
    logits = session.run(None, {"input": dataset.preprocessing.apply(test.x).numpy()})[0]
    answers = torch.from_numpy(logits).argmax(dim=1)
    return answers.tolist(), 100 * float((answers == test.y).double().mean())


def check_outputs(folder: Path, report: dict[str, Any], dataset: Dataset) -> None:
    exports = {export["kind"]: export for export in report["exports"]}
    assert {kind: export["error"] for kind, export in exports.items()} == dict.fromkeys(exports)
    answers, accuracy = served(folder / "model.onnx", dataset)
    model = load(folder)
    with torch.no_grad():
        own = model(dataset.preprocessing.apply(dataset.splits[Split.TEST].x)).argmax(dim=1).tolist()
    assert answers == own
    assert accuracy == pytest.approx(report["student"]["accuracy"]["test"], abs=1e-3)
    assert exports["onnx"]["top1_agreement"] == exports["pt2"]["top1_agreement"] == 100
    assert exports["onnx"]["max_abs_difference"] < 1e-3


@pytest.mark.long
def test_a_torchvision_cnn(client: Client, tmp_path: Path) -> None:
    path = colour_digits(tmp_path / "digits.npz")
    size = [SIDE, SIDE]
    dataset = load_dataset(DatasetRequest(upload="upl_x", size=size), None, path, Interface(3, 10))
    torch.manual_seed(0)
    network: nn.Module = torchvision.models.resnet18(num_classes=10)
    train(network, dataset, dataset.splits[Split.TRAIN], epochs=4)
    teacher = upload_file(client, network, tmp_path / "teacher.safetensors")
    request = {
        "teacher": teacher,
        "dataset": {"upload": client.upload(path, "dataset").id, "size": size, "mean": "data", "std": "data"},
        "student": {"ratio": 1.2, "select": "importance"},
        "exports": ["onnx", "pt2", "int8", "hugging_face"],
        "then": ["prune:0.4", "int8"],
        "schedule": {
            "batch_size": 32,
            "lit": {"epochs": 1, "learning_rate": 0.02},
            "fine_tune": {"epochs": 1, "learning_rate": 0.01},
        },
    }
    architecture = {"library": "torchvision", "name": "resnet18"}
    with pytest.raises(LitError, match="architecture"):
        client.create_job(request)
    report = compress(client, tmp_path, **request, architecture=architecture)
    assert report["teacher"]["blocks"] == [2, 2, 2, 2]
    assert report["teacher"]["accuracy"]["test"] > 75
    assert report["student"]["accuracy"]["test"] > 70
    assert report["ratios"]["parameters"] >= 1.2
    kept, importance = report["selection"]["kept"], report["selection"]["importance"]
    assert [len(places) for places in kept] == report["student"]["blocks"]
    assert importance[1][0] is None
    assert importance[1][1] > 0
    check_outputs(tmp_path, report, dataset)
    assert {export["kind"]: export for export in report["exports"]}["int8"]["accuracy"] > 60
    assert report["exports"][-1]["reads"] == "lit-compress"
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        archive.extractall(tmp_path / "bundle")
    check_steps(client, tmp_path, report, dataset)


def check_steps(client: Client, folder: Path, report: dict[str, Any], dataset: Dataset) -> None:
    pruned, quantised = report["then"]
    assert pruned["parameters"] < 0.65 * report["student"]["parameters"]
    x, y = dataset.preprocessing.apply(dataset.splits[Split.TEST].x), dataset.splits[Split.TEST].y
    for at in (folder, folder / "bundle"):
        with torch.no_grad():
            answers = load(at, pruned["file"])(x).argmax(dim=1)
        assert 100 * float((answers == y).double().mean()) == pytest.approx(pruned["accuracy"]["test"], abs=1e-3)
    accuracy = served(folder / quantised["file"], dataset)[1]
    assert accuracy == pytest.approx(quantised["accuracy"]["test"], abs=1e-3)
    assert min(pruned["accuracy"]["test"], quantised["accuracy"]["test"]) > 60
    card = (folder / "bundle/huggingface/README.md").read_text()
    assert f"`{pruned['file']}`" in card
    model = load(folder / "bundle/huggingface")
    with torch.no_grad():
        assert torch.equal(model(x), load(folder)(x))
    job = next(job for job in client.jobs() if job.result and job.result.get("then"))
    phases = [metric.phase for metric in client.metrics(job.id, name="loss")]
    assert phases == ["lit", "fine_tune", "prune"]
    assert job.progress is not None
    assert (job.progress.phase, job.progress.fraction) == ("storing", 1.0)
    assert job.result is not None
    assert job.result["then"] == report["then"]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset(DatasetRequest(builtin="digits"), None, None, Interface(1, 10))


def trained_vit(digits: Dataset, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=10, **VIT)
    train(network, digits, digits.splits[Split.TRAIN], epochs)
    return network


@pytest.fixture(scope="module")
def vit(digits: Dataset) -> nn.Module:
    return trained_vit(digits, epochs=12)


@pytest.mark.long
def test_a_timm_vit(client: Client, tmp_path: Path, digits: Dataset, vit: nn.Module) -> None:
    teacher = upload_file(client, vit, tmp_path / "teacher.safetensors")
    architecture = {"library": "timm", "name": "vit_tiny_patch16_224", "kwargs": VIT}
    client.inspect_as(teacher, architecture)
    inspection = client.wait_inspection(teacher).inspection
    assert inspection is not None
    assert (inspection.architecture.blocks, inspection.architecture.classes) == ([3, 3], 10)
    report = compress(
        client,
        tmp_path,
        teacher=teacher,
        architecture=architecture,
        dataset={"builtin": "digits"},
        student={"blocks": [2, 1]},
        exports=["onnx", "pt2", "hugging_face"],
    )
    assert [len(kept) for kept in report["selection"]["kept"]] == [2, 1]
    # Chance is 10.
    assert report["teacher"]["accuracy"]["test"] > 60
    assert report["student"]["accuracy"]["test"] > 40
    check_outputs(tmp_path, report, digits)
    assert report["exports"][-1] == {"kind": "hugging_face", "file": "bundle.zip", "reads": "timm", "error": None}
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        archive.extractall(tmp_path / "bundle")
    same = timm.create_model(f"local-dir:{tmp_path / 'bundle/huggingface'}", pretrained=True).eval()
    x = digits.preprocessing.apply(digits.splits[Split.TEST].x)
    with torch.no_grad():
        assert torch.equal(same(x).argmax(dim=1), load(tmp_path)(x).argmax(dim=1))


def test_a_student_is_a_teacher_whichever_of_its_files_is_given(
    client: Client, tmp_path: Path, digits: Dataset
) -> None:
    # So much that it is no guess, which a job would refuse.
    vit = trained_vit(digits, epochs=3)
    once: dict[str, Any] = {
        "dataset": {"builtin": "digits"},
        "method": "kd",
        "race": False,
        "schedule": {"steps_per_epoch": 4, "lit": {"epochs": 1}, "fine_tune": {"epochs": 0}},
    }
    teacher = upload_file(client, vit, tmp_path / "teacher.safetensors")
    named = {"library": "timm", "name": "vit_tiny_patch16_224", "kwargs": VIT}
    first, second, older = (tmp_path / name for name in ("first", "second", "older"))
    report = compress(
        client,
        first,
        teacher=teacher,
        architecture=named,
        student={"kept": [[0, 2], [1]]},
        exports=["hugging_face"],
        **once,
    )
    with zipfile.ZipFile(first / "bundle.zip") as archive:
        archive.extractall(first / "bundle")
    older.mkdir()
    # As it was before the weights named their architecture.
    save_file(load_file(first / "model.safetensors"), older / "model.safetensors")
    (older / "config.json").write_bytes((first / "config.json").read_bytes())
    files = (first / "model.safetensors", first / "bundle.zip", first / "bundle/huggingface/model.safetensors", older)
    for file in files:
        upload = client.wait_inspection(client.upload(file, "teacher").id)
        assert upload.inspection is not None, file
        assert upload.inspection.architecture.blocks == [2, 1], file
    again = compress(client, second, teacher=upload.id, student={"kept": [[1], [0]]}, exports=[], **once)
    assert again["teacher"]["accuracy"] == report["student"]["accuracy"]
    smaller = load(second).config.architecture.network
    assert smaller is not None
    # Of the library's network.
    assert smaller.kept == [[2], [1]]


@pytest.mark.long
def test_a_depth_study_of_a_timm_vit(client: Client, tmp_path: Path, vit: nn.Module) -> None:
    job = {
        "teacher": upload_file(client, vit, tmp_path / "teacher.safetensors"),
        "architecture": {"library": "timm", "name": "vit_tiny_patch16_224", "kwargs": VIT},
        "dataset": {"builtin": "digits"},
        "schedule": {"lit": {"epochs": 2, "learning_rate": 0.02}, "fine_tune": {"epochs": 1, "learning_rate": 0.01}},
    }
    client.inspect_as(job["teacher"], job["architecture"])
    client.wait_inspection(job["teacher"])
    study = client.create_study({"kind": "depth", "job": job, "max_accuracy_drop": 15})
    done = client.wait_study(study.id, timeout=150)
    assert done.state == "succeeded", done.error
    assert done.choice is not None
    assert done.table is not None
    tried = {row["depth"]: row for row in done.table.rows if row["succeeded"]}
    assert 2 <= done.choice["depth"] <= 5
    assert tried[done.choice["depth"]]["validation_mean"] > 40
    jobs = list(client.jobs(study=study.id))
    assert all(one.spec["student"]["blocks"] is None for one in jobs), "the trainer chooses them"
    assert all(sum(one.result["student"]["blocks"]) == one.spec["student"]["depth"] for one in jobs if one.result)
    assert all((one.result or {}).get("exports", []) == [] for one in jobs)
