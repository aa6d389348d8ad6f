"""A StarGAN over HTTP: its generator in, a shallower one out, with and without its discriminator."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from lit_client import Client
from lit_client.models import Job
from tests.coloured_digits import COLOURS, SIDE, coloured_digits, write_teachers
from tests.e2e.digits import ROOT, write_npz, write_zip
from tests.e2e.test_command import litc

QUICK = {"student": {"blocks": [2]}, "preset": "quick"}
TRANSLATE = """
import sys, numpy as np, lit_core
from PIL import Image
images = [Image.fromarray(image) for image in np.load(sys.argv[1])]
for folder in sys.argv[2:]:
    model = lit_core.load(folder)
    made = [[np.asarray(picture) for picture in model.translate(images, name)] for name in model.classes]
    np.save(f"{folder}/made.npy", np.stack(made))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("stargan")
    generator, discriminator = write_teachers(folder)
    x, y = coloured_digits()
    arrays = write_npz(folder / "digits.npz", x, y)
    return {"teacher": generator, "discriminator": discriminator, "dataset": arrays}


def followed(client: Client, request: dict[str, Any]) -> tuple[Job, list[dict[str, Any]]]:
    job = client.create_job(request)
    epochs = [event.data for event in client.follow(job.id) if event.type == "epoch"]
    job = client.job(job.id)
    assert job.state == "succeeded", job.error
    return job, epochs


def translated(students: list[Path], x: np.ndarray, images: Path) -> list[np.ndarray]:
    """Of each student (domains, N, H, W, 3), by a fresh process."""
    np.save(images, x.transpose(0, 2, 3, 1))
    command = [sys.executable, "-c", TRANSLATE, str(images), *map(str, students)]
    subprocess.run(command, check=True, cwd=ROOT, timeout=120)
    return [np.load(student / "made.npy") for student in students]


def test_a_generator_becomes_shallower_with_and_without_its_discriminator(
    client: Client, files: dict[str, Path], tmp_path: Path
) -> None:
    ids = {name: client.upload(path, "teacher").id for name, path in files.items() if name != "dataset"}
    found = {name: client.wait_inspection(upload).inspection for name, upload in ids.items()}
    assert found["teacher"] is not None
    assert found["discriminator"] is not None
    assert (found["teacher"].architecture.task, found["teacher"].architecture.depth) == ("translation", 18)
    assert [option.blocks for option in found["teacher"].students] == [[n] for n in range(1, 7)]
    assert (found["discriminator"].architecture.task, found["discriminator"].students) == ("discrimination", [])

    dataset = {"upload": client.upload(files["dataset"], "dataset").id, "class_order": list(COLOURS)}
    base = {**QUICK, "teacher": ids["teacher"], "dataset": dataset, "accept": {"min_psnr": 20}}
    taught, epochs = followed(client, {**base, "exports": [], "schedule": {"lit": {"epochs": 6}}})
    assert {epoch["phase"] for epoch in epochs} == {"lit"}
    assert epochs[0]["metrics"]["ir_loss"] / epochs[-1]["metrics"]["ir_loss"] >= 5
    assert taught.accepted is True
    assert taught.result is not None
    assert taught.result["fine_tuning"] == "adversarial fine-tuning left out: no discriminator was given"

    schedule = {"lit": {"epochs": 6}, "fine_tune": {"epochs": 1}}
    tuned, epochs = followed(client, {**base, "discriminator": ids["discriminator"], "schedule": schedule})
    assert [epoch["phase"] for epoch in epochs] == ["lit"] * 6 + ["fine_tune"]
    assert tuned.result is not None
    assert tuned.result["fine_tuning"] == "adversarial"
    assert tuned.result["student"]["psnr"]["test"] > 20

    students = {}
    x, _ = coloured_digits(30)
    for job in (taught, tuned):
        folder = tmp_path / job.id
        names = {file.path.name for file in client.download(job.id, folder)}
        assert names == {
            *("model.safetensors", "config.json", "report.json", "translations.png"),
            *(("model.onnx", "model.pt2") if job is tuned else ()),
        }
        students[job.id] = load_file(folder / "model.safetensors")
        assert students[job.id]["main.17.weight"].shape == (3, 4, 7, 7)
    for made in translated([tmp_path / job.id for job in (taught, tuned)], x, tmp_path / "images.npy"):
        assert made.shape == (3, 30, SIDE, SIDE, 3)
        for channel in range(len(COLOURS)):
            # Where a digit is, its colour is the domain's.
            drawn = x.max(axis=1) > 128
            assert made[channel][drawn].mean(axis=0).argmax() == channel
    assert all(tensors.keys() == students[taught.id].keys() for tensors in students.values())
    assert not np.array_equal(students[taught.id]["main.0.weight"], students[tuned.id]["main.0.weight"])


@pytest.mark.long
def test_one_command_with_a_discriminator_and_celebas_layout(
    service_url: str, files: dict[str, Path], tmp_path: Path
) -> None:
    x, y = coloured_digits(60)
    members = {}
    for i, image in enumerate(x):
        content = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(content, "PNG")
        members[f"celeba/images/{i:06}.png"] = content.getvalue()
    rows = [f"{i:06}.png 1 " + " ".join("1" if y[i] == c else "-1" for c in range(3)) for i in range(len(y))]
    text = "\n".join([str(len(y)), "Drawn Red Green Blue", *rows])
    members["celeba/list_attr_celeba.txt"] = text.encode()
    archive = write_zip(tmp_path / "celeba.zip", members)
    words = ["--blocks", 1, "--dataset", archive, "--discriminator", files["discriminator"], "--set", "preset=quick"]
    words += ["--epochs", 1, "--fine-tune-epochs", 1, "--set", 'dataset.attributes=["Red", "Green", "Blue"]']
    words += ["--set", "accept.min_psnr=199", "--set", "exports=[]"]
    done = litc(service_url, "compress", files["teacher"], "--output", tmp_path / "student", *words)
    assert done.returncode == 3, done.stderr
    report = json.loads((tmp_path / "student/report.json").read_text())
    assert report["classes"] == ["Red", "Green", "Blue"]
    assert report["domains"] == "exclusive"
    assert "PSNR" in done.stderr
    assert "SSIM to the teacher, test" in done.stdout


@pytest.mark.long
def test_a_study_compares_students_with_and_without_their_discriminator(client: Client, files: dict[str, Path]) -> None:
    ids = {name: client.upload(path, "teacher").id for name, path in files.items() if name != "dataset"}
    for upload in ids.values():
        client.wait_inspection(upload)
    dataset = {"upload": client.upload(files["dataset"], "dataset").id, "class_order": list(COLOURS)}
    schedule = {"steps_per_epoch": 15, "lit": {"epochs": 2}, "fine_tune": {"epochs": 1}}
    study = client.create_study(
        {
            "kind": "compare",
            "job": {**QUICK, **ids, "dataset": dataset, "schedule": schedule},
            "methods": [
                {"name": "ir-only", "method": "lit", "schedule": {"fine_tune": {"epochs": 0}}},
                {"name": "adversarial", "method": "lit"},
            ],
            "seeds": [0],
        }
    )
    study = client.wait_study(study.id, timeout=300)
    assert study.state == "succeeded", study.error
    assert study.table is not None
    assert study.table.validation_metric == study.table.test_metric == "psnr"
    rows = {row["arm"]: row for row in study.table.rows}
    assert [row["succeeded"] for row in rows.values()] == [1, 1]
    assert rows["adversarial"]["pairs"] == 1
    assert rows["ir-only"]["test_mean"] != rows["adversarial"]["test_mean"]
    told = {
        job.trial["arm"]: job.result["fine_tuning"] for job in client.jobs(study=study.id) if job.trial and job.result
    }
    assert told["adversarial"] == "adversarial"
    assert told["ir-only"] == "adversarial fine-tuning left out: schedule.fine_tune.epochs is 0"
