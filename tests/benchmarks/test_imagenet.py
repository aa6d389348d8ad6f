"""The ImageNet benchmark on a generated folder of ImageNet's layout, through its own command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.imagenet_info import ImageNetInfo
from torch import nn
from torchvision.models import mobilenet_v2

from benchmarks.imagenet.arms import KD_RATES, Arm
from benchmarks.imagenet.images import ImageNet, UnusableFolder, plain_batches, training_batches
from benchmarks.imagenet.results import Run, Teacher, summary, table
from benchmarks.imagenet.run import main

COLOURS = {"n01440764": (220, 30, 30), "n02123045": (30, 220, 30), "n07753592": (30, 30, 220)}
CROP = 32


def picture(colour: tuple[int, int, int], chance: np.random.Generator) -> Image.Image:
    noise = chance.integers(-4, 4, (40, 52, 3))
    return Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenet")
    chance = np.random.default_rng(0)
    for split, number in (("train", 4), ("val", 3)):
        for wnid, colour in COLOURS.items():
            of_class = root / split / wnid
            of_class.mkdir(parents=True)
            for place in range(number):
                picture(colour, chance).save(of_class / f"{wnid}_{place}.JPEG")
    return root


@pytest.fixture(scope="module")
def weights(folder: Path) -> Path:
    """Of a network that tells the three classes apart."""
    torch.manual_seed(0)
    network = mobilenet_v2().eval()
    wnids = ImageNetInfo("imagenet-1k").label_names()
    pictures = [Image.open(file) for wnid in COLOURS for file in sorted((folder / "val" / wnid).iterdir())]
    (x,) = plain_batches(pictures, CROP, 64)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        network.train()(x)
        network.eval()
        centres = network.features(x).mean((2, 3)).unflatten(0, (3, 3)).mean(1)
        distance = torch.cdist(centres, centres).max()
        classifier = network.classifier[1]
        classifier.weight.zero_()
        classifier.bias.fill_(-20.0)
        for wnid, centre in zip(COLOURS, centres, strict=True):
            # The nearest centre has the largest logit.
            classifier.weight[wnids.index(wnid)] = 10 * centre / distance**2
            classifier.bias[wnids.index(wnid)] = -5 * centre.square().sum() / distance**2
    file = folder / "mobilenet.pth"
    torch.save(network.state_dict(), file)
    return file


def rates(rate: float) -> dict[str, Any]:
    return {phase: {"learning_rate": rate} for phase in ("lit", "fine_tune")}


def command(folder: Path, weights: Path, results: Path, *arguments: str) -> list[str]:
    return [
        *("--imagenet", str(folder), "--device", "cpu", "--workers", "0", "--results", str(results)),
        *("--networks", "mobilenet_v2", "--weights", f"mobilenet_v2={weights}", "--samples", "6", "--seeds", "2021"),
        *("--crop", str(CROP), "--iterations", "2", "--batch-size", "4"),
        *("--lit", json.dumps({"schedule": {"steps_per_epoch": 1, **rates(1e-4)}})),
        *arguments,
    ]


@pytest.mark.long
def test_a_stopped_benchmark_goes_on(
    folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "imagenet.json"
    assert main(command(folder, weights, results, "--arms", "lit", "practise")) == 0
    first = json.loads(results.read_text())
    assert [(run["drop"], run["arm"]) for run in first["runs"]] == [(n, a) for n in (1, 2) for a in ("lit", "practise")]
    assert first["teachers"]["mobilenet_v2"]["top1"] == 100.0
    capsys.readouterr()

    assert main(command(folder, weights, results)) == 0
    content = json.loads(results.read_text())
    assert content["runs"][:4] == first["runs"]
    assert content["rankings"] == first["rankings"]
    assert len(first["rankings"]) == 1
    assert len(first["rankings"][0]["candidates"]) == 10
    assert len(content["runs"]) == 2 * (3 + len(KD_RATES))
    lits_blocks = {run["drop"]: run["kept"] for run in content["runs"] if run["arm"] == "lit"}
    for run in content["runs"]:
        assert sum(map(len, run["kept"])) == 15 - run["drop"]
        assert run["arm"] == "practise" or run["kept"] == lits_blocks[run["drop"]]
        assert 0 <= run["top1"] <= run["top5"] <= 100
        assert run["latency_ratio"] > 0
    *_, last = capsys.readouterr().out.splitlines()
    told = json.loads(last)
    assert (told["runs"], told["missing"]) == (len(content["runs"]), 0)
    assert [(cell["drop"], cell["arm"]) for cell in told["cells"]] == [(n, arm) for n in (1, 2) for arm in Arm]

    assert main(command(folder, weights, results)) == 0
    assert json.loads(results.read_text()) == content
    with pytest.raises(SystemExit):
        main(command(folder, weights, results, "--iterations", "3"))
    assert "was made with iterations 2, not 3: give another file with --results" in capsys.readouterr().err


def test_the_others_are_run_where_lit_fails(
    folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = {"steps_per_epoch": 1, "gradient_clip": None, **rates(100.0)}
    # Blocks that need no search are enough for a training that fails.
    lit = json.dumps({"race": False, "select": "even", "schedule": schedule})
    arguments = ("--arms", "lit", "practise", "untrained", "--lit", lit, "--iterations", "1")
    assert main(command(folder, weights, tmp_path / "results.json", *arguments)) == 1
    *told, last = capsys.readouterr().out.splitlines()
    assert sum("lit: the training is unstable" in line for line in told) == 2
    assert sum("untrained: there is no student of LIT" in line for line in told) == 2
    assert {(cell["drop"], cell["arm"]) for cell in json.loads(last)["cells"]} == {(1, "practise"), (2, "practise")}
    assert json.loads(last)["missing"] == 4


def test_arms_that_start_from_lits_blocks_need_lit(
    folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(command(folder, weights, tmp_path / "results.json", "--arms", "kd"))
    assert "add lit to --arms" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train/cats", r"train/cats is not the wnid of one of ImageNet-1k's classes, as n01440764 is"),
        ("train/n02109525", r"n02109525 is only in one of .*/train and .*/val"),
        (None, r"train is not there: give the folder that has train/<wnid>/\*\.JPEG"),
    ],
)
def test_a_folder_that_is_not_imagenet_is_refused(tmp_path: Path, change: str | None, message: str) -> None:
    if change is not None:
        for split in ("train", "val"):
            (tmp_path / split / "n01440764").mkdir(parents=True)
        (tmp_path / change).mkdir()
        if change == "train/cats":
            (tmp_path / "val/cats").mkdir()
    with pytest.raises(UnusableFolder, match=message):
        ImageNet.open(tmp_path)


def test_few_images_are_spread_over_the_classes(folder: Path) -> None:
    def colours(number: int, seed: int) -> list[int]:
        found = ImageNet.open(folder).few_images(number, seed)
        return [int(np.asarray(image).mean((0, 1)).argmax()) for image in found]

    assert sorted(colours(6, 0)) == [0, 0, 1, 1, 2, 2]
    assert sorted(colours(12, 0)) == [0] * 4 + [1] * 4 + [2] * 4
    assert len(colours(2, 0)) == 2
    assert {tuple(colours(2, seed)) for seed in range(20)} > {tuple(colours(2, 0))}
    first, same, other = (
        [image.tobytes() for image in ImageNet.open(folder).few_images(7, seed)] for seed in (0, 0, 1)
    )
    assert len(set(first)) == 7
    assert first == same != other
    with pytest.raises(UnusableFolder, match="has 12 images, but 13 are asked for"):
        colours(13, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_are_augmented_and_follow_from_the_seed(folder: Path, workers: int) -> None:
    images = ImageNet.open(folder).few_images(6, 0)
    one, same, other = (torch.stack(list(training_batches(images, CROP, 4, workers, seed))) for seed in (0, 0, 1))
    assert one.shape == (50, 4, 3, CROP, CROP)
    if workers:
        assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert len({tuple(image.flatten()[:50].tolist()) for image in one.flatten(0, 1)}) > 100


def run(arm: Arm, seed: int, top1: float, rate: float | None = None) -> Run:
    return Run("resnet34", 2, 50, seed, arm, rate, [[0]], top1, 90.0, 1.2, 1.0, "cpu")


def test_the_table_pairs_seeds_and_shows_kd_at_its_best_rate() -> None:
    runs = [run(Arm.LIT, seed, 70.0 + seed) for seed in range(3)]
    runs += [run(Arm.PRACTISE, seed, 69.0 + seed + seed % 2) for seed in range(3)]
    runs += [run(Arm.KD, seed, 60.0 + rate, rate) for seed in range(3) for rate in (1.0, 2.0)]
    # Only one seed so far, so it is not compared.
    runs.append(run(Arm.KD, 0, 99.0, 3.0))
    found: dict[str, dict[str, Any]] = {cell["arm"]: cell for cell in summary(runs)}
    assert list(found) == ["lit", "practise", "kd"]
    assert (found["kd"]["rate"], found["kd"]["top1"], found["kd"]["seeds"]) == (2.0, 62.0, 3)
    assert (found["lit"]["top1"], found["lit"]["top1_std"]) == (71.0, 1.0)
    text = table(runs, {"resnet34": Teacher(73.3, 91.4, {})})
    # Differences of 1, 0 and 1: mean 2/3, standard error 1/3, and Student's t with 2 degrees of freedom is 4.303.
    assert "| 73.30 | practise | 70.33 ± 1.15 | 90.00 ± 0.00 | +0.67 (-0.77 to +2.10) | 1.200 | 3 |" in text
    assert "| 73.30 | kd, rate 2 | 62.00 ± 0.00 | 90.00 ± 0.00 | +9.00 (+6.52 to +11.48) | 1.200 | 3 |" in text
