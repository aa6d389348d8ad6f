"""What the client sends and shows of generators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lit_client import Client, progress
from lit_client.command import display, inspection_display, progress_bar
from lit_client.command.job_request import BadRequest, check_body, check_student
from tests.api.test_uploads import safetensors_file
from tests.lit_client.command import litc
from tests.lit_client.made_answers import make_job, make_upload
from tests.lit_client.scripted_worker import ScriptedWorker
from tests.lit_spec.test_translation import discriminator, generator
from tests.worker.bench import Bench

RESULT: dict[str, Any] = {
    "teacher": {"reconstruction_l1": {"val": 0.08, "test": 0.0812}, "parameters": 34_996},
    "student": {
        "reconstruction_l1": {"val": 0.08, "test": 0.0834},
        "psnr": {"val": 30.0, "test": 31.237},
        "ssim": {"val": 0.9, "test": 0.9712},
        "l1": {"val": 0.02, "test": 0.0193},
        "parameters": 16_308,
    },
    "ratios": {"parameters": 2.146},
}


def rendered(table: Any) -> str:
    console = Console(width=200, record=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_compress_sends_the_discriminator(
    url: str, worker: ScriptedWorker, bench: Bench, teacher: Path, tmp_path: Path
) -> None:
    parts = {"teacher": tmp_path / "generator.safetensors", "discriminator": tmp_path / "discriminator.safetensors"}
    parts["teacher"].write_bytes(safetensors_file(4))
    parts["discriminator"].write_bytes(safetensors_file(8))
    worker.inspections = {parts["teacher"].name: generator(), parts["discriminator"].name: discriminator()}
    worker.result = RESULT
    faces = tmp_path / "faces.zip"
    faces.write_bytes(b"faces")
    words = ["--blocks", "2", "--dataset", faces, "--discriminator", parts["discriminator"]]
    done = litc(url, "compress", parts["teacher"], "--output", tmp_path / "out", *words)
    assert done.returncode == 0, done.stderr
    with Client(url) as client:
        (job,) = client.jobs()
    for field, path in parts.items():
        with bench.storage.open(f"uploads/{job.request[field]}/data") as stored:
            assert stored.read() == path.read_bytes()
    with bench.storage.open(f"uploads/{job.request['dataset']['upload']}/data") as stored:
        assert stored.read() == b"faces"
    for text in ("31.24", "0.9712", "0.0812", "16,308"):
        assert text in done.stdout


def test_student_and_discriminator_are_checked_before_the_data_is_sent() -> None:
    body = {"dataset": {"upload": "upl_x"}, "student": {"blocks": [2]}, "discriminator": "upl_d"}
    request = check_body(body)
    check_student(request, generator(), discriminator())
    with pytest.raises(BadRequest, match="has 4 domains, but the generator has 5"):
        check_student(request, generator(), discriminator(domains=4))
    with pytest.raises(BadRequest, match="min_psnr"):
        check_student(check_body({**body, "accept": {"max_accuracy_drop": 1}}), generator(), discriminator())


def test_an_epoch_shows_what_was_measured() -> None:
    place = {"phase": "lit", "epoch": 3, "epochs": 20}
    assert progress.epoch_line({**place, "metrics": {"psnr": 27.123, "validation_ir_loss": 0.51234, "l1": 0.1}}) == (
        "LIT 3/20  PSNR 27.12 dB  IR loss 0.5123"
    )
    accuracies = {"student_accuracy": 90.0, "teacher_accuracy": 95.5}
    assert progress.epoch_line({**place, "metrics": accuracies}) == "LIT 3/20  student 90.00 %  teacher 95.50 %"
    assert progress.epoch_line({**place, "metrics": {"agreement": 88.0}}) == "LIT 3/20  agreement 88.00 %"


def test_the_teacher_is_shown_by_what_was_measured_of_it() -> None:
    data = {"split": "val", "reconstruction_l1": 0.08125, "domains": "exclusive"}
    assert progress_bar.measured_line(data) == "teacher on the validation split: reconstruction l1 0.08125"
    assert progress_bar.measured_line({"split": "val", "accuracy": 97.5, "chance": 11.0}) == (
        "teacher on the validation split: accuracy 97.5, chance 11"
    )
    assert progress_bar.measured_line({"split": "val", "accuracy": None, "chance": None}) == "teacher measured"
    warned = progress_bar.measured_line({"split": "val", "accuracy": 60.0, "chance": 48.0, "note": "the teacher …"})
    assert warned == "teacher on the validation split: accuracy 60, chance 48. Warning: the teacher …"


def test_tables_need_no_accuracy() -> None:
    job = make_job(result=RESULT)
    assert "31.2 dB" in rendered(display.jobs_table([job]))
    agreeing = make_job(result={"student": {"agreement": {"test": 91.25}}})
    assert "91.2 % agree" in rendered(display.jobs_table([agreeing]))
    shown = rendered(inspection_display.inspection_table(make_upload(filename="d.pt"), discriminator()))
    assert "stargan_discriminator" in shown
    assert "5 domains" in shown
