"""Teachers of other families over HTTP: in goes a teacher, out comes a student that works in a fresh process."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lit_client import Client, LitError
from lit_core.data import Arrays, Dataset, Interface, load_dataset
from lit_core.networks.families.resnext_cifar import NAMES, ResNeXt
from lit_core.networks.families.vdcnn import VDCNN, Downsampling
from lit_spec import DatasetRequest, Modality, Split
from tests.e2e.digits import ROOT

SENTENCES = ROOT.parent / "shared/data/amazonReviewSnippets_GroundTruth.txt"
LENGTH = 64


def train(network: nn.Module, dataset: Dataset, arrays: Arrays, epochs: int) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    x: Tensor = dataset.preprocessing.apply(arrays.x)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), arrays.y[rows]).backward()
            optimizer.step()


def upload_file(client: Client, network: nn.Module, path: Path) -> str:
    save_file(network.state_dict(), path)
    return client.upload(path, "teacher").id


def upload(client: Client, network: nn.Module, path: Path) -> str:
    return client.wait_inspection(upload_file(client, network, path)).id


def compress(client: Client, folder: Path, **request: Any) -> dict[str, Any]:
    """The report of a job that succeeds; its files in `folder`."""
    epochs = {"lit": {"epochs": 2, "learning_rate": 0.02}, "fine_tune": {"epochs": 2, "learning_rate": 0.01}}
    job = client.wait_job(client.create_job({"schedule": epochs, **request}).id, timeout=150)
    assert job.state == "succeeded", job.error
    client.download(job.id, folder)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def classified(folder: Path, samples: list[Any], as_samples: str) -> list[str]:
    """What the downloaded model says in a process of its own; `as_samples` makes its input of the JSON `given`."""
    code = (
        "import json, sys, lit_core, numpy; given = json.load(sys.stdin);"
        f"print(json.dumps(lit_core.load(sys.argv[1]).classify({as_samples})))"
    )
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(samples), capture_output=True, text=True, check=True)
    answers: list[str] = json.loads(done.stdout)
    return answers


def accuracy(answers: list[str], dataset: Dataset, arrays: Arrays) -> float:
    wanted = [dataset.classes[label] for label in arrays.y.tolist()]
    return 100 * sum(a == b for a, b in zip(answers, wanted, strict=True)) / len(wanted)


@pytest.mark.long  # the network is another one, but the way is that of the ResNet in test_compression
def test_a_resnext_on_digits(client: Client, tmp_path: Path) -> None:
    digits = load_dataset(DatasetRequest(builtin="digits"), None, None, Interface(1, 10))
    torch.manual_seed(0)
    sizes = {"cardinality": 4, "base_width": 2, "width": 16, "stem_width": 8, "channels": 1, "classes": 10}
    network = ResNeXt([2, 2, 2], **sizes, names=NAMES["stage"], head="classifier", projection="shortcut")
    train(network, digits, digits.splits[Split.TRAIN], epochs=3)
    teacher = upload(client, network, tmp_path / "teacher.safetensors")
    inspection = client.get_upload(teacher).inspection
    assert inspection is not None
    assert (inspection.architecture.family, inspection.architecture.depth) == ("resnext_cifar", 20)
    assert [option.depth for option in inspection.students] == [11, 20]

    report = compress(
        client, tmp_path, teacher=teacher, dataset={"builtin": "digits"}, student={"depth": 11}, exports=[]
    )
    assert report["teacher"]["accuracy"]["test"] > 80
    assert report["student"]["accuracy"]["test"] > 60
    assert report["ratios"]["parameters"] > 1.5
    assert report["ratios"]["flops"] > 1.5
    student = load_file(tmp_path / "model.safetensors")
    assert "stage_3.stage_3_bottleneck_0.shortcut.shortcut_conv.weight" in student
    assert student.keys() < network.state_dict().keys()
    test = digits.splits[Split.TEST]
    answers = classified(tmp_path, test.x[:, 0].tolist(), "list(numpy.array(given, dtype='uint8'))")
    assert accuracy(answers, digits, test) == pytest.approx(report["student"]["accuracy"]["test"], abs=0.3)


def sentences(count: int) -> list[tuple[str, str]]:
    """(sign of the score, sentence) of real reviews."""
    lines = [line.split("\t", 2) for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
    scored = [(float(score), text) for _, score, text in lines if float(score) != 0]
    chosen = scored[:: len(scored) // count][:count]
    return [("positive" if score > 0 else "negative", text) for score, text in chosen]


@pytest.mark.skipif(not SENTENCES.exists(), reason=f"needs the Amazon review snippets in {SENTENCES}")
def test_a_vdcnn_on_real_sentences(client: Client, tmp_path: Path) -> None:
    rows = sentences(800)
    with (tmp_path / "reviews.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("label", "text"), *rows])
    asked = DatasetRequest(upload="upl_x", length=LENGTH)
    interface = Interface(None, 2, Modality.TEXT, vocabulary_size=69)
    reviews = load_dataset(asked, None, tmp_path / "reviews.csv", interface)
    torch.manual_seed(0)
    network = VDCNN([2, 2, 2, 2], 2, widths=(8, 8, 12, 16, 24), k=8, hidden=(64, 64), downsampling=Downsampling.CONV)
    # All splits: a teacher that has the sentences by heart is enough to see that a student can learn from it.
    known = Arrays(*(torch.cat(parts) for parts in zip(*((s.x, s.y) for s in reviews.splits.values()), strict=True)))
    train(network, reviews, known, epochs=25)
    teacher = upload(client, network, tmp_path / "teacher.safetensors")
    inspection = client.get_upload(teacher).inspection
    assert inspection is not None
    assert (inspection.architecture.depth, inspection.architecture.channels) == (17, None)
    assert inspection.architecture.choices == {"downsampling": ["maxpool", "conv", "kmaxpool"]}
    assert [option.depth for option in inspection.students] == [9, 17]

    request = {
        "teacher": teacher,
        "dataset": {"upload": client.upload(tmp_path / "reviews.csv", "dataset").id, "length": LENGTH},
        "student": {"depth": 9, "select": "even"},
        "exports": [],
    }
    with pytest.raises(LitError, match=r"teacher_options\.downsampling"):
        client.create_job({**request, "teacher_options": {"downsampling": "stride"}})
    report = compress(client, tmp_path, **request, teacher_options={"downsampling": "conv"})
    assert report["specification"]["teacher"]["architecture"]["options"]["downsampling"] == "conv"
    assert report["classes"] == ["negative", "positive"]
    # With other options than its own it would guess. How well it knows the sentences differs between processors.
    assert report["teacher"]["accuracy"]["test"] > 70
    assert report["ratios"]["parameters"] > 1.2
    first, second = report["epochs"][:2]
    assert {f"ir_loss_{section}" for section in (1, 2, 3, 4)} <= first.keys()
    assert second["ir_loss"] < first["ir_loss"]

    test = reviews.splits[Split.TEST]
    by_row = {row.tobytes(): text for (_, text), row in zip(rows, encoded(reviews, rows), strict=True)}
    texts = [by_row[row.tobytes()] for row in test.x.numpy()]
    answers = classified(tmp_path, texts, "given")
    assert accuracy(answers, reviews, test) == pytest.approx(report["student"]["accuracy"]["test"], abs=1.3)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["preprocessing"]["kind"], config["preprocessing"]["length"]) == ("text", LENGTH)


def encoded(dataset: Dataset, rows: list[tuple[str, str]]) -> np.ndarray[Any, Any]:
    preprocessing = dataset.preprocessing
    assert preprocessing.kind == "text"
    found: np.ndarray[Any, Any] = preprocessing.from_texts([text for _, text in rows]).numpy()
    return found
