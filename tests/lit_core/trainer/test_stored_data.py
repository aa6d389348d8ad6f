"""Jobs whose images lie in the store: the same student as from memory, also after a break."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_core.data.store import decoding
from lit_core.trainer.job import run_job
from lit_core.training.loop import Drained
from lit_spec import Split
from tests.lit_core.trainer.test_training import KeptMessages, stripes, write_spec


class StopsAt:
    """Asks to stop when it is asked for the n-th time."""

    def __init__(self, number: int) -> None:
        self.left = number

    @property
    def stop_requested(self) -> bool:
        self.left -= 1
        return self.left < 0


def write_images(path: Path) -> None:
    x, y = stripes()
    with zipfile.ZipFile(path, "w") as archive:
        for row, (image, label) in enumerate(zip(x, y, strict=True)):
            content = io.BytesIO()
            Image.fromarray(image).save(content, "PNG")
            archive.writestr(f"{label}/{row}.png", content.getvalue())


def prepared(folder: Path, teacher: Path, store: Path | None) -> Path:
    folder.mkdir()
    (folder / "teacher.safetensors").write_bytes(teacher.read_bytes())
    write_images(folder / "dataset")
    write_spec(folder, teacher, augmentation={"noise": 0.1}, n_random=10)
    begin_attempt(folder, store, 1)
    return folder


def begin_attempt(folder: Path, store: Path | None, attempt: int) -> None:
    run: dict[str, Any] = {"device": "cpu", "threads": 1, "attempt": attempt}
    if store is not None:
        run |= {"data_store": str(store), "data_store_bytes": 1 << 30, "data_store_days": 1}
    (folder / "run.json").write_text(json.dumps(run))


def weights(folder: Path) -> bytes:
    return (folder / "output" / "model.safetensors").read_bytes()


def test_a_student_from_the_store_is_the_one_from_memory(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = prepared(tmp_path / "memory", teacher_file, None)
    run_job(memory, KeptMessages(), StopsAt(10**9))
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 0)
    broken = prepared(tmp_path / "broken", teacher_file, tmp_path / "store")
    with pytest.raises(Drained):
        run_job(broken, KeptMessages(), StopsAt(0))  # while it decodes
    assert (tmp_path / "store").exists()
    for attempt in range(2, 100):
        begin_attempt(broken, tmp_path / "store", attempt)
        try:
            run_job(broken, KeptMessages(), StopsAt(14))
        except Drained:
            continue
        break
    assert attempt > 3
    assert weights(broken) == weights(memory)


def test_the_decoding_is_told(tmp_path: Path, teacher_file: Path) -> None:
    folder, kept = prepared(tmp_path / "job", teacher_file, tmp_path / "store"), KeptMessages()
    with pytest.raises(Drained):
        run_job(folder, kept, StopsAt(3))
    told = [json.loads(message.as_line()) for message in kept.messages]
    loading = [one for one in told if one["type"] == "progress" and one["phase"] == "loading" and one["steps"]]
    assert loading[0]["steps"] == 240
    assert 0 < loading[0]["step"] <= 240


def test_a_job_trains_on_random_crops_of_larger_images(tmp_path: Path, teacher_file: Path) -> None:
    folder = prepared(tmp_path / "job", teacher_file, tmp_path / "store")
    crops = {"crop_scale": [0.6, 1.0], "crop_from": 12, "color_jitter": 0.2}
    write_spec(folder, teacher_file, augmentation=crops, dataset={"upload": "upl_d", "size": [8, 8]})
    report = run_job(folder, KeptMessages(), StopsAt(10**9))
    assert report.student.score("accuracy", Split.TEST) > 50
    assert len(list((tmp_path / "store").iterdir())) == 2
