"""What `lit_core.compress` returns, and what it shows on the way: saved, loaded, drawn, and used on raw samples."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import lit_core
from lit_core import progress
from lit_core.compressed import Compressed
from lit_core.data import Dataset, Interface, load_dataset
from lit_core.data.samples import listed
from lit_core.model import ModelConfig
from lit_core.networks.teacher import build_network, read_teacher
from lit_spec import DatasetRequest, Phase, Split
from lit_spec.trainer.messages import EpochDone
from tests.lit_core.test_compression import OnDigits

TEACHER = Path(__file__).parents[2] / "examples/digits/teacher.safetensors"
ONCE = {"lit": {"epochs": 1, "learning_rate": 0.01}, "fine_tune": {"epochs": 1, "learning_rate": 0.01}}
LIT_ONLY = {"lit": {"epochs": 1, "learning_rate": 0.01}, "fine_tune": {"epochs": 0}}


class Seen:
    def __init__(self) -> None:
        self.epochs: list[EpochDone] = []

    def on_epoch(self, done: EpochDone) -> None:
        self.epochs.append(done)


class Impatient:
    def on_epoch(self, done: EpochDone) -> None:
        raise InterruptedError(f"after epoch {done.epoch}")


class Endless:
    def __init__(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return cycle(self.batches)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset(DatasetRequest(builtin="digits"), None, None, Interface(1, 10))


def batches(digits: Dataset, split: Split, samples: int) -> list[tuple[Tensor, Tensor]]:
    arrays = digits.splits[split]
    x = digits.preprocessing.apply(arrays.x[:samples])
    return list(zip(x.split(32), arrays.y[:samples].split(32), strict=True))


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    return build_network(read_teacher(TEACHER).recognised.architecture, TEACHER).eval()


@pytest.fixture(scope="module")
def watched(digits: Dataset, teacher: nn.Module) -> tuple[Compressed, Seen, str]:
    """A student, what the callback saw, and what the bar showed."""
    seen, shown = Seen(), io.StringIO()
    with redirect_stderr(shown):
        made = lit_core.compress(
            teacher,
            batches(digits, Split.TRAIN, 96),
            depth=6,
            select="even",
            validation=batches(digits, Split.TEST, 64),
            schedule=ONCE,
            callbacks=[seen],
            progress=True,
            then=["prune:0.5"],
        )
    return made, seen, shown.getvalue()


@pytest.fixture(scope="module")
def saved(watched: tuple[Compressed, Seen, str], digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return watched[0].save(
        tmp_path_factory.mktemp("made") / "student", preprocessing=digits.preprocessing, exports=["onnx"]
    )


def test_callbacks_and_the_bar_see_every_epoch(watched: tuple[Compressed, Seen, str]) -> None:
    made, seen, shown = watched
    phases = [(done.phase, done.epoch, done.epochs) for done in seen.epochs]
    assert phases == [(Phase.LIT, 1, 1), (Phase.FINE_TUNE, 1, 1), (Phase.PRUNE, 1, 1)]
    assert [done.metrics["loss"] for done in seen.epochs] == [epoch["loss"] for epoch in made.report["epochs"]]
    assert seen.epochs[-1].fraction == 1
    assert "fine_tune 1/1" in shown
    assert "3/3" in shown


def test_what_a_callback_raises_ends_the_training(digits: Dataset) -> None:
    training = batches(digits, Split.TRAIN, 64)
    arguments: dict[str, Any] = {"blocks": [2, 2], "select": "even", "schedule": ONCE}
    with pytest.raises(InterruptedError, match="after epoch 1"):
        lit_core.compress(OnDigits(), training, callbacks=[Impatient()], **arguments)


def test_a_bar_needs_tqdm(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"lit-compress\[notebook\]"):
        lit_core.compress(OnDigits(), batches(digits, Split.TRAIN, 64), blocks=[2, 2], progress=True)


def test_a_saved_student_is_loaded(watched: tuple[Compressed, Seen, str], saved: Path, digits: Dataset) -> None:
    made, _, _ = watched
    x = batches(digits, Split.TEST, 64)[0][0]
    student = lit_core.load(saved)
    assert student.config.architecture.family == "resnet_cifar"
    assert student.config.architecture.blocks == made.report["student"]["blocks"]
    with torch.no_grad():
        torch.testing.assert_close(student(x), made.student(x))
        pruned = lit_core.load(saved, "model.prune-0.5.safetensors")
        torch.testing.assert_close(pruned(x), made.pruned["prune:0.5"](x))
    assert {path.name for path in saved.iterdir()} == {
        *("config.json", "model.safetensors", "model.prune-0.5.safetensors", "model.onnx"),
        *("report.json", "training.png"),
    }
    report = json.loads((saved / "report.json").read_text())
    (export,) = report.pop("exports")
    assert report == made.report
    assert (export["kind"], export["error"], export["samples"]) == ("onnx", None, 64)
    assert export["accuracy"] == pytest.approx(made.report["validation"]["student_accuracy"], abs=1e-3)


def test_a_loaded_student_is_compressed_again(saved: Path, digits: Dataset, tmp_path: Path) -> None:
    before = lit_core.load(saved)
    training = batches(digits, Split.TRAIN, 64)
    again = lit_core.compress(before, training, depth=4, select="even", schedule=LIT_ONLY, progress=False)
    after = lit_core.load(again.save(tmp_path))
    assert after.config.preprocessing == before.config.preprocessing
    assert sum(after.config.architecture.blocks) == 4


def test_raw_samples_of_all_kinds(saved: Path, digits: Dataset, tmp_path: Path) -> None:
    student = lit_core.load(saved)
    raw = digits.splits[Split.TEST].x[:70]
    names = student.classify(raw)
    assert len(set(names)) > 3
    arrays = raw.squeeze(1).numpy()
    for form in (list(arrays), arrays, list(raw), (array for array in arrays)):
        assert student.classify(form) == names
    assert student.classify(arrays[0]) == student.classify(raw[0]) == names[:1]
    (best,), (first, second, *rest) = student.classify(raw[0], top=1)[0], student.classify(raw[:1], top=10)[0]
    assert best == first == (names[0], best.probability)
    assert first.probability > second.probability
    assert sum(one.probability for one in (first, second, *rest)) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="top is 0"):
        student.classify(raw, top=0)
    with pytest.raises(ValueError, match="give one sample"):
        student.classify(7)  # type: ignore[call-overload]
    with pytest.raises(FileNotFoundError):
        student.classify(tmp_path / "absent.png")


def test_image_files_and_folders_are_read(tmp_path: Path, digits: Dataset) -> None:
    preprocessing = digits.preprocessing.model_copy(update={"scale": 255.0})
    assert preprocessing.kind == "image"
    for number in (2, 1):
        Image.fromarray(np.full((9, 9), number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "broken.png").write_text("no image either")
    assert listed(str(tmp_path), preprocessing) == [tmp_path / name for name in ("1.png", "2.png", "broken.png")]
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    config = ModelConfig(architecture=read_teacher(TEACHER).recognised.architecture, preprocessing=preprocessing)
    model = lit_core.Model(network, config).eval()
    picture = Image.open(tmp_path / "1.png")
    assert model.classify([tmp_path / "1.png", picture]) == 2 * model.classify(str(tmp_path / "1.png"))
    assert model.classify(picture) == model.classify(np.asarray(picture))
    with pytest.raises(ValueError, match=r"broken.png can't be read as an image"):
        model.classify(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image files"):
        model.classify(tmp_path / "empty")


def test_a_network_that_nobody_can_build_is_saved_as_a_program(digits: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    training = batches(digits, Split.TRAIN, 64)
    endless = Endless(training)
    made = lit_core.compress(
        OnDigits(), endless, blocks=[2, 2], select="even", schedule={**LIT_ONLY, "steps_per_epoch": 2}
    )
    model = lit_core.load(made.save(tmp_path, classes=[f"digit {n}" for n in range(10)]))
    x = training[0][0]
    with torch.no_grad():
        torch.testing.assert_close(model(x), made.student(x))
        wanted = [f"digit {n}" for n in made.student(x).argmax(dim=1).tolist()]
    assert model.classify(x) == wanted
    assert model.train().classify(x) == wanted
    with pytest.raises(ValueError, match="leave weights out"):
        lit_core.load(tmp_path, "model.prune-0.5.safetensors")
    with pytest.raises(ValueError, match="2 class names, but the model has 10"):
        made.save(tmp_path, classes=["a", "b"])
    with pytest.raises(ValueError, match="exports has 'hugging_face'"):
        made.save(tmp_path, exports=["hugging_face"])


def test_it_is_shown_and_drawn(watched: tuple[Compressed, Seen, str]) -> None:
    made, _, _ = watched
    report = {**made.report, "notes": ["<b>a note</b>"]}
    shown = Compressed(made.student, report, made.pruned, made.origin)
    accuracy = f"{report['validation']['teacher_accuracy']:.2f}"
    for text in (repr(shown), shown._repr_html_()):
        assert accuracy in text
        assert f"{report['student']['parameters']:,}" in text
    assert "&lt;b&gt;a note&lt;/b&gt;" in shown._repr_html_()
    figure = made.plot()
    drawn = {
        axes.get_title(): [line.get_label() for line in axes.lines if line.get_label()[0] != "_"]
        for axes in figure.axes
    }
    assert drawn["IR loss of each section"] == ["ir_loss_1", "ir_loss_2", "ir_loss_3"]
    assert {"agreement", "teacher_accuracy", "student_accuracy"} <= set(drawn["validation"])
    assert figure._repr_png_().startswith(b"\x89PNG")
