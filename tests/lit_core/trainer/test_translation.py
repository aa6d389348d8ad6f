"""The task of generators: its draws and scores, the trainer's process, and the model that comes out."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import lit_core
from lit_core.data import DatasetError, Interface, load_dataset
from lit_core.data.views import SampleViews
from lit_core.measuring import fidelity
from lit_core.model import Model
from lit_core.networks.block_selection import Selection
from lit_core.networks.families.stargan import Discriminator, Generator
from lit_core.networks.student import build_student
from lit_core.networks.teacher import build_network, build_teacher
from lit_core.seeding import generator_of
from lit_core.tasks.translation import Translation, are_exclusive, fixed_targets, into_domains
from lit_core.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lit_core.training.group import ALONE
from lit_core.training.loop import Drained, Training
from lit_spec import JobRequest, JobSpec, Phase, Split, resolve
from lit_spec.trainer.messages import Progress
from lit_spec.trainer.report import Report
from tests.coloured_digits import COLOURS, SIDE, as_input, coloured_digits, one_thread, write_generator
from tests.lit_core.trainer.test_training import inspected, run, write_dataset

SCHEDULE = {"steps_per_epoch": 7, "batch_size": 4, "lit": {"epochs": 2}, "fine_tune": {"epochs": 2}}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files of a generator and a discriminator as they are initialised: enough where nothing must be good."""
    folder = tmp_path_factory.mktemp("untrained")
    torch.manual_seed(0)
    save_file(Generator(2, 3, 3, 2, "main", True).state_dict(), folder / "g.safetensors")
    save_file(Discriminator(2, 3, 3, 2, SIDE // 4).state_dict(), folder / "d.safetensors")
    return folder / "g.safetensors", folder / "d.safetensors"


def job_folder(folder: Path, files: tuple[Path, Path | None], *, count: int = 40, **changes: Any) -> Path:
    folder.mkdir()
    teacher, discriminator = files
    (folder / "teacher.safetensors").write_bytes(teacher.read_bytes())
    request: dict[str, Any] = {
        "teacher": "upl_g",
        "dataset": {"upload": "upl_d", "class_order": list(COLOURS)},
        "student": {"blocks": [1]},
        "schedule": SCHEDULE,
        "exports": [],
    }
    found = None
    if discriminator is not None:
        (folder / "discriminator.safetensors").write_bytes(discriminator.read_bytes())
        request["discriminator"] = "upl_e"
        found = inspected(discriminator)
    asked = JobRequest.model_validate({**request, **changes})
    spec = resolve(asked, inspected(teacher), found)
    (folder / "spec.json").write_text(spec.model_dump_json())
    (folder / "run.json").write_text(json.dumps({"device": "cpu", "threads": 1, "attempt": 1}))
    x, y = coloured_digits(count)
    write_dataset(folder / "dataset", x=x, y=y)
    return folder


def a_task(folder: Path) -> Translation:
    spec = JobSpec.model_validate_json((folder / "spec.json").read_bytes())
    teacher = build_teacher(spec.teacher.architecture, folder / "teacher.safetensors")
    interface = Interface.of(spec.teacher.architecture)
    dataset = load_dataset(spec.dataset, spec.augmentation, folder / "dataset", interface)
    discriminator = (
        build_network(spec.discriminator.architecture, folder / "discriminator.safetensors")
        if spec.discriminator
        else None
    )
    device = torch.device("cpu")
    return Translation(spec, teacher, build_student(teacher, spec), dataset, device, discriminator=discriminator)


# --- draws ------------------------------------------------------------------------------------------------------------


def test_targets_are_the_batchs_own_domains_in_another_order(tmp_path: Path, untrained: tuple[Path, Path]) -> None:
    task = a_task(job_folder(tmp_path / "job", untrained))
    rows = torch.arange(12)
    samples = SampleViews(rows, torch.zeros_like(rows), 0)
    batches = [task.batch(samples, 0.0, generator_of("b", n)) for n in (1, 1, 2)]
    for batch in batches:
        x, target = batch.inputs
        assert (x.min(), x.max()) == (-1, 1)
        assert torch.equal(batch.labels, task.train.y[rows])
        assert torch.equal(target.sum(0), batch.labels.sum(0))
    assert torch.equal(batches[0].inputs[1], batches[1].inputs[1])
    assert not torch.equal(batches[0].inputs[1], batches[2].inputs[1])
    assert not torch.equal(batches[0].inputs[1], batches[0].labels)


def test_validation_translates_each_image_into_another_domain() -> None:
    own = torch.eye(3)[torch.tensor([0, 0, 1, 1, 2, 2])]
    targets = fixed_targets(own, exclusive=True)
    assert targets.argmax(1).tolist() == [1, 2, 2, 0, 0, 1]
    assert torch.equal(targets.sum(1), torch.ones(6))
    mixed = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    assert fixed_targets(mixed, exclusive=False).tolist() == [[1, 1], [1, 0], [1, 0]]
    assert into_domains(mixed, torch.tensor([1, 1, 1]), exclusive=False).tolist() == [[0, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("domains", "exclusive"),
    [
        ([[1, 0], [0, 1]], True),
        ([[1, 0], [1, 1]], False),
        ([[1, 0], [0, 0]], False),
        ([[1], [1]], False),
    ],
)
def test_domains_are_exclusive_where_each_sample_has_exactly_one_of_several(
    domains: list[list[int]], exclusive: bool
) -> None:
    assert are_exclusive(torch.tensor(domains).float()) is exclusive


def test_fidelity_is_measured_image_by_image() -> None:
    a = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    b = a.clone()
    b[1] += 0.1
    b[2, :, :4] += 0.4
    assert fidelity.l1(a, b).tolist() == pytest.approx([0, 0.1, 0.2], abs=1e-6)
    assert fidelity.psnr(a, b).tolist() == pytest.approx(
        [200, 10 * math.log10(4 / 0.01), 10 * math.log10(4 / 0.08)], abs=1e-3
    )
    similarity = fidelity.ssim(a, b).tolist()
    assert similarity[0] == pytest.approx(1, abs=1e-5)
    assert 0 < similarity[2] < similarity[1] < 1


def test_scores_compare_the_student_with_the_teacher(tmp_path: Path, untrained: tuple[Path, Path]) -> None:
    task = a_task(job_folder(tmp_path / "job", untrained))
    arrays = task.dataset.splits[Split.VALIDATION]
    x = task.dataset.preprocessing.apply(arrays.x)
    target = fixed_targets(arrays.y, exclusive=True)
    with torch.no_grad():
        wanted, made = (network.network(x, target) for network in (task.teacher, task.student))
        trunk = task.teacher.network.get_submodule("main")[9:11]  # type: ignore[index]
        given = task.teacher.stem_output(x, target)
        ir = (task.student.sections[0](given) - trunk(given)).square().mean()
    scores = task.score()
    squares = (made - wanted).square().mean(dim=(1, 2, 3))
    assert scores.value == scores.metrics["psnr"]
    assert scores.value == pytest.approx(float((10 * torch.log10(4 / squares)).mean()), abs=1e-3)
    assert scores.metrics["l1"] == pytest.approx(float((made - wanted).abs().mean()), rel=1e-5)
    assert scores.metrics["validation_ir_loss"] == pytest.approx(float(ir), rel=1e-5)
    twin = a_task(job_folder(tmp_path / "twin", untrained, student={"depth": 10, "allow_same_depth": True}))
    assert twin.score().value == fidelity.MOST_PSNR


class MeanColours(torch.nn.Module):
    """A feature network: each image's mean of each channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(2, 3))


def test_a_feature_network_compares_translations_with_images_on_the_test_split(
    tmp_path: Path, untrained: tuple[Path, Path]
) -> None:
    task = a_task(job_folder(tmp_path / "job", untrained, count=60))
    assert "fid" not in task.measure(task.student.network, Split.TEST)
    task.feature = MeanColours()
    arrays = task.dataset.splits[Split.TEST]
    x = task.dataset.preprocessing.apply(arrays.x)
    with torch.no_grad():
        made = task.student.network(x, fixed_targets(arrays.y, exclusive=True))
    features = [task.dataset.preprocessing.to_pixels(images).double().mean(dim=(2, 3)) for images in (x, made)]
    (mean, covariance), (other, another) = ((f.mean(dim=0), torch.cov(f.T)) for f in features)
    # tr (ΣT)^½ is the sum of the roots of the product's eigenvalues, which are real and not negative.
    roots = torch.linalg.eigvals(covariance @ another).real.clamp(min=0).sqrt().sum()
    wanted = (mean - other).square().sum() + covariance.trace() + another.trace() - 2 * roots
    measured = task.measure(task.student.network, Split.TEST)
    assert measured["fid"] == pytest.approx(float(wanted), rel=1e-3)
    assert measured["inception_score"] >= 1
    assert task.measure(task.student.network, Split.VALIDATION)["fid"] is None


def test_a_test_split_of_one_image_is_no_distribution(tmp_path: Path, untrained: tuple[Path, Path]) -> None:
    folder = job_folder(tmp_path / "job", untrained)
    x, y = coloured_digits(20)
    write_dataset(folder / "dataset", x=x, y=y, split=np.array([0] * 17 + [1, 1, 2]))
    task = a_task(folder)
    task.feature = MeanColours()
    found = task.measure(task.student.network, Split.TEST)
    assert (found["fid"], found["inception_score"]) == (None, None)
    assert found["psnr"] > 0


def test_a_generators_blocks_are_chosen_by_their_importance(tmp_path: Path, untrained: tuple[Path, Path]) -> None:
    student = {"blocks": [1], "select": "importance"}
    folder = job_folder(tmp_path / "job", (untrained[0], None), student=student)
    code, events = run(folder)
    assert code == 0
    importance = events[-1]["result"]["selection"]["importance"]
    assert [len(section) for section in importance] == [2]


def test_fine_tuning_runs_with_a_discriminator_alone(tmp_path: Path, untrained: tuple[Path, Path]) -> None:
    with_one = a_task(job_folder(tmp_path / "with", untrained))
    without = a_task(job_folder(tmp_path / "without", (untrained[0], None)))
    phases = (Phase.LIT, Phase.FINE_TUNE)
    assert [with_one.spec.schedule.of(phase).epochs > 0 for phase in phases] == [True, True]
    assert [without.spec.schedule.of(phase).epochs > 0 for phase in phases] == [True, False]


# --- the trainer ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    folder: Path
    events: list[dict[str, Any]]

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.output / "report.json").read_text())
        assert Report.model_validate(report).as_json() == report
        return report

    def epochs(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == "epoch"]


def ended(folder: Path) -> Ended:
    code, events = run(folder)
    assert code == 0
    return Ended(folder, events)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, untrained: tuple[Path, Path]) -> Ended:
    """A job without a discriminator."""
    return ended(job_folder(tmp_path_factory.mktemp("taught") / "job", (untrained[0], None), accept={"min_psnr": 1}))


def test_without_a_discriminator_the_report_says_what_was_left_out(taught: Ended, untrained: tuple[Path, Path]) -> None:
    assert [epoch["phase"] for epoch in taught.epochs()] == ["lit", "lit"]
    assert [epoch["fraction"] for epoch in taught.epochs()] == [0.5, 1.0]
    measured = next(event["data"] for event in taught.events if event["type"] == "teacher_measured")
    assert measured.keys() == {"split", "reconstruction_l1", "domains"}
    report = taught.report
    assert report["fine_tuning"] == "adversarial fine-tuning left out: no discriminator was given"
    assert report["domains"] == "exclusive"
    assert report["accepted"] is (report["student"]["psnr"]["test"] >= 1)
    assert report["selected"]["by"] == "psnr on the validation split"
    assert report["selected"]["value"] == pytest.approx(max(e["psnr"] for e in report["epochs"]), abs=1e-3)
    assert {"reconstruction_l1", "psnr", "ssim", "l1"} <= report["student"].keys()
    assert "psnr" not in report["teacher"]
    before = report["baselines"]["untrained"]
    assert before["psnr"]["test"] < report["student"]["psnr"]["test"]
    assert report["outcome"] == "better-than-untrained"
    [note] = report["notes"]
    assert note.startswith("the data has no test split")
    assert report["classes"] == list(COLOURS)
    assert report["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    teacher, student = load_file(untrained[0]), load_file(taught.output / "model.safetensors")
    assert torch.equal(student["main.0.weight"], teacher["main.0.weight"])
    assert torch.equal(student["main.16.weight"], teacher["main.17.weight"])
    assert not torch.equal(student["main.9.main.0.weight"], teacher["main.9.main.0.weight"])


def test_with_a_discriminator_the_last_epoch_is_put_out(tmp_path: Path, untrained: tuple[Path, Path]) -> None:
    job = ended(job_folder(tmp_path / "job", untrained, accept={"min_psnr": 150}))
    assert [epoch["phase"] for epoch in job.epochs()] == ["lit", "lit", "fine_tune", "fine_tune"]
    metrics = job.epochs()[-1]["metrics"]
    assert metrics["loss"] == pytest.approx(
        metrics["adversarial_loss"] + metrics["classification_loss"] + 10 * metrics["reconstruction_loss"]
    )
    assert metrics["discriminator_loss"] == pytest.approx(
        metrics["discriminator_adversarial_loss"]
        + metrics["discriminator_classification_loss"]
        + 10 * metrics["gradient_penalty"]
    )
    report = job.report
    assert report["fine_tuning"] == "adversarial"
    assert report["accepted"] is False
    assert (
        report["selected"].items()
        >= {"phase": "fine_tune", "epoch": 2, "by": "the last epoch", "metric": "psnr"}.items()
    )
    assert report["baselines"]["untrained"]["psnr"]["test"] > 0
    assert report["outcome"] is None, "closeness to the teacher doesn't measure adversarial fine-tuning"
    changed = load_file(job.output / "model.safetensors")["main.0.weight"]
    assert not torch.equal(changed, load_file(untrained[0])["main.0.weight"])


def test_a_generator_that_training_makes_no_better_stays_untrained(
    tmp_path: Path, untrained: tuple[Path, Path]
) -> None:
    schedule = {**SCHEDULE, "lit": {"epochs": 1, "learning_rate": 100}, "steps_per_epoch": 2}
    job = ended(job_folder(tmp_path / "job", (untrained[0], None), schedule=schedule, accept={"min_psnr": 1}))
    report = job.report
    assert (report["selected"]["phase"], report["selected"]["epoch"]) == ("lit", 0)
    assert report["baselines"]["untrained"]["psnr"] == report["student"]["psnr"]
    assert (report["outcome"], report["accepted"]) == ("no-better-than-untrained", False)


class Stopping:
    """Asks a training to stop before it has taken `steps` more steps, and keeps its checkpoint."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.steps = path, steps

    def epoch(
        self, phase: Phase, epoch: int, epochs: int, fraction: float, metrics: dict[str, float], steps: int
    ) -> None:
        """Told elsewhere."""

    def progress(self, progress: Progress) -> None:
        """Told elsewhere."""

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        save_checkpoint(checkpoint, self.path)

    def stop_requested(self) -> bool:
        self.steps -= 1
        return self.steps < 0


def trained(task: Translation, path: Path, steps: int = 10**9) -> Training:
    """A training by the task, from the checkpoint at `path` if there is one, to its end or for `steps` steps."""
    training = Training(task.spec, task, Stopping(path, steps), selection=Selection([[0]]), environment={}, group=ALONE)
    if path.exists():
        training.restore(load_checkpoint(path), 2)
    with suppress(Drained), one_thread():
        training.run()
    return training


@pytest.mark.parametrize("steps", [1, 5])
def test_a_drained_adversarial_training_goes_on_to_the_same_bits(
    tmp_path: Path, untrained: tuple[Path, Path], steps: int
) -> None:
    schedule = {**SCHEDULE, "lit": {"epochs": 1}, "fine_tune": {"epochs": 2}}
    folder = job_folder(tmp_path / "job", untrained, schedule=schedule, adversarial={"n_critic": 3})
    whole = trained(a_task(folder), tmp_path / "whole.pt")
    resumed = 0
    while True:
        # All networks anew, as in another process: what the checkpoint lacks is lost.
        broken = trained(a_task(folder), tmp_path / "broken.pt", steps)
        if len(broken.epochs) == 3 and broken.position.epoch == 2:
            break
        resumed += 1
    assert resumed >= 3
    assert broken.best is not None
    assert whole.best is not None
    for name, tensor in whole.best.state.items():
        assert torch.equal(broken.best.state[name], tensor), name
    timeless = [[{**epoch.as_json(), "seconds": 0} for epoch in training.epochs] for training in (broken, whole)]
    assert timeless[0] == timeless[1]


def test_the_quick_preset_brings_the_ir_loss_down_and_the_student_recolours(tmp_path: Path) -> None:
    files = (write_generator(tmp_path), None)
    changes = {"student": {"blocks": [2]}, "preset": "quick", "schedule": {}}
    task = a_task(job_folder(tmp_path / "job", files, count=150, **changes))
    before = task.score().metrics
    after = trained(task, tmp_path / "checkpoint.pt").epochs[-1].metrics
    assert before["validation_ir_loss"] / after["validation_ir_loss"] >= 5
    assert after["psnr"] > before["psnr"] + 3
    x, _ = coloured_digits(60)
    with torch.no_grad():
        made = task.student.network(as_input(x), torch.eye(3)[1].expand(60, -1))
    # Green, in other words: what is bright is so in that channel.
    assert (made.mean(dim=(0, 2, 3)).argmax(), made[:, 1].max() > 0.5) == (1, True)


def test_an_unstable_training_goes_back_before_numbers_are_told_that_are_none(
    tmp_path: Path, untrained: tuple[Path, Path]
) -> None:
    wild = {"epochs": 1, "learning_rate": 100, "schedule": {"kind": "constant"}}
    schedule = {**SCHEDULE, "optimizer": "sgd", "momentum": 0, "nesterov": False, "lit": wild}
    setbacks = 0
    # Somewhere here the last step's loss is still finite, and what is measured after it is not.
    for steps in range(17, 22):
        changed = {**schedule, "steps_per_epoch": steps}
        task = a_task(job_folder(tmp_path / f"{steps}", (untrained[0], None), schedule=changed))
        training = trained(task, tmp_path / f"{steps}.pt")
        (epoch,) = training.epochs
        assert all(map(math.isfinite, epoch.metrics.values())), epoch
        setbacks += len(training.setbacks)
    assert setbacks


@pytest.mark.parametrize(
    ("side", "discriminator", "said"),
    [(10, False, "multiples of 4"), (4, False, "at least 8 pixels"), (32, True, "set dataset.size to [16, 16]")],
)
def test_images_that_do_not_fit_are_refused(
    tmp_path: Path, untrained: tuple[Path, Path], side: int, discriminator: bool, said: str
) -> None:
    folder = job_folder(tmp_path / "job", (untrained[0], untrained[1] if discriminator else None))
    x, y = np.zeros((40, 3, side, side), np.uint8), np.arange(40) % 3
    write_dataset(folder / "dataset", x=x, y=y)
    with pytest.raises(DatasetError) as refused:
        a_task(folder)
    assert refused.value.field == "dataset.size"
    assert said in refused.value.detail


# --- the model and the picture ----------------------------------------------------------------------------------------


def test_a_loaded_generator_translates(taught: Ended) -> None:
    model = lit_core.load(taught.output)
    x, _ = coloured_digits(4)
    assert model.classes == list(COLOURS)
    pictures = model.translate(torch.from_numpy(x), "green")
    assert [(picture.mode, picture.size) for picture in pictures] == [("RGB", (SIDE, SIDE))] * 4
    c = torch.tensor([[0.0, 1.0, 0.0]]).expand(4, -1)
    with torch.no_grad():
        made = model(torch.from_numpy(x).float() / 127.5 - 1, c)
    wanted = ((made + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert all(
        np.abs(np.asarray(p).astype(int) - w.astype(int)).max() <= 1 for p, w in zip(pictures, wanted, strict=True)
    )
    images = [Image.fromarray(image.transpose(1, 2, 0)) for image in x]
    assert [p.tobytes() for p in model.translate(images, ["green"])] == [p.tobytes() for p in pictures]
    both = model.translate(images, ["red", "blue"])
    assert both[0].tobytes() != model.translate(images, "red")[0].tobytes()
    with pytest.raises(ValueError, match="no domain 'purple': the domains are red, green, blue"):
        model.translate(images, "purple")
    with pytest.raises(ValueError, match=r"for translation, not for classification: use translate"):
        model.classify(images)


def test_a_classifier_does_not_translate() -> None:
    from lit_core.data import ImagePreprocessing
    from lit_core.model import ModelConfig
    from lit_core.networks.families.resnet_cifar import ResNet
    from lit_spec import Architecture

    arch = Architecture(family="resnet_cifar", depth=8, blocks=[1, 1, 1], channels=1, classes=2)
    preprocessing = ImagePreprocessing(size=[8, 8], channels=1, scale=255, mean=[0], std=[1], class_order=["a", "b"])
    network = ResNet([1, 1, 1], 2, 1, 2, "A", "fc", "downsample")
    model = Model(network, ModelConfig(architecture=arch, preprocessing=preprocessing))
    with pytest.raises(ValueError, match=r"for classification, not for translation: use classify"):
        model.translate([np.zeros((8, 8), np.uint8)], "a")


def test_the_picture_has_the_image_and_both_translations_into_each_domain(
    taught: Ended,
) -> None:
    picture = np.asarray(Image.open(taught.output / "translations.png"))
    task = a_task(taught.folder)
    arrays = task.dataset.splits[Split.TEST]
    columns, step = len(arrays.y), SIDE + 2
    assert picture.shape == (7 * step - 2, columns * step - 2, 3)
    tiles = [
        [picture[r * step : r * step + SIDE, c * step : c * step + SIDE] for c in range(columns)] for r in range(7)
    ]
    assert (picture[SIDE : SIDE + 2] == 255).all()
    student = lit_core.load(taught.output)
    for column in range(columns):
        raw = arrays.x[column : column + 1]
        assert np.array_equal(tiles[0][column], raw[0].permute(1, 2, 0).numpy())
        for domain, name in enumerate(COLOURS):
            c = torch.eye(3)[domain : domain + 1]
            with torch.no_grad():
                made = task.teacher.network(task.dataset.preprocessing.apply(raw), c)
            (wanted,) = student._image_preprocessing().to_images(made)
            assert np.abs(tiles[1 + 2 * domain][column].astype(int) - np.asarray(wanted).astype(int)).max() <= 1
            (own,) = student.translate(raw, name)
            assert np.abs(tiles[2 + 2 * domain][column].astype(int) - np.asarray(own).astype(int)).max() <= 1
