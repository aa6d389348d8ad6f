"""`make imagenet IMAGENET=/path`: PRACTISE's protocol on ImageNet, LIT beside it.

torchvision's ResNet-34 with two and three blocks dropped and MobileNetV2 with one and two, from 50, 100, 500 and 1,000
training images without labels, five seeds. Every result is stored at once; started again, the command goes on. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models import get_model

from benchmarks.imagenet.arms import (
    FROM_LITS_BLOCKS,
    KD_RATES,
    LIT_SETTINGS,
    Arm,
    Kept,
    Student,
    kd_student,
    lit_student,
    practise_student,
    untrained_student,
)
from benchmarks.imagenet.images import CROP, ImageNet, UnusableFolder, plain_batches, training_batches
from benchmarks.imagenet.results import OtherSettings, Ranking, Results, Run, Teacher, summary, table
from benchmarks.practise import Candidate, Recipe, latency_reductions, rated_blocks
from lit_core.measuring.cost import latencies
from lit_core.networks.discovery import find_layout
from lit_core.networks.sections import SectionedNetwork
from lit_core.training.setbacks import Diverged

ROOT = Path(__file__).resolve().parents[2]
DROPPED = {"resnet34": (2, 3), "mobilenet_v2": (1, 2)}
SAMPLES = (50, 100, 500, 1000)
SEEDS = (2021, 2022, 2023, 2024, 2025)
WEIGHTS = "IMAGENET1K_V1"


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    asked = parser.parse_args(arguments)
    if set(asked.arms) & set(FROM_LITS_BLOCKS) and Arm.LIT not in asked.arms:
        parser.error("the arms kd and untrained start from the blocks that lit chose: add lit to --arms")
    if asked.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here: use --device cpu, which takes weeks, or another machine")
    try:
        images = ImageNet.open(asked.imagenet)
        results = Results.open(asked.results, _settings(asked, images))
        for network in asked.networks:
            _run_network(network, asked, images, results)
    except (UnusableFolder, OtherSettings, ValueError) as failure:
        parser.error(str(failure))
    print(table(results.runs, results.teachers))
    cells = product(asked.networks, asked.samples, asked.seeds)
    missing = sum(len(_missing(*cell, asked, results)) for cell in cells)
    told = {"runs": len(results.runs), "missing": missing, "results": str(results.file), "cells": summary(results.runs)}
    print(json.dumps(told))
    return int(missing > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imagenet.run", description=__doc__)
    parser.add_argument("--imagenet", type=Path, required=True, help="folder with train/<wnid> and val/<wnid>")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--results", type=Path, default=ROOT / ".evidence/imagenet.json")
    parser.add_argument(
        "--weights",
        type=_named_file,
        action="append",
        default=[],
        metavar="NETWORK=FILE",
        help="a state dict (.pth or .safetensors), on a machine that can't download torchvision's",
    )
    parser.add_argument("--networks", nargs="+", choices=list(DROPPED), default=list(DROPPED))
    parser.add_argument("--samples", nargs="+", type=int, default=SAMPLES)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--arms", nargs="+", type=Arm, choices=list(Arm), default=list(Arm))
    parser.add_argument(
        "--lit", type=json.loads, default={}, metavar="JSON", help="arguments of lit_core.compress over the defaults"
    )
    parser.add_argument("--workers", type=int, default=8, help="processes that load images")
    parser.add_argument("--crop", type=int, default=CROP, help="pixels; another value is not the protocol")
    parser.add_argument("--iterations", type=int, default=Recipe.iterations, help="of PRACTISE's two phases, and of KD")
    parser.add_argument("--batch-size", type=int, default=64, help="of training and of the measured latency")
    return parser


def _named_file(text: str) -> tuple[str, Path]:
    network, _, file = text.partition("=")
    if network not in DROPPED or not file:
        raise argparse.ArgumentTypeError(f"{text} is not NETWORK=FILE, where NETWORK is one of {', '.join(DROPPED)}")
    return network, Path(file)


def _settings(asked: argparse.Namespace, images: ImageNet) -> dict[str, Any]:
    """What must not change from one call to the next."""
    files = {network: str(file) for network, file in asked.weights}
    return {
        "classes": len(images.classes),
        "crop": asked.crop,
        "iterations": asked.iterations,
        "batch_size": asked.batch_size,
        "lit": {**LIT_SETTINGS, **asked.lit},
        "weights": {network: files.get(network, WEIGHTS) for network in DROPPED},
    }


def _run_network(name: str, asked: argparse.Namespace, images: ImageNet, results: Results) -> None:
    teacher = _teacher(name, asked)
    validation = images.validation(asked.crop, 2 * asked.batch_size, asked.workers)
    sample = torch.zeros(asked.batch_size, 3, asked.crop, asked.crop, device=asked.device)
    if name not in results.teachers:
        top1, top5 = validated(teacher.network, validation, asked.device)
        results.add_teacher(name, Teacher(top1, top5, latency_reductions(teacher, (sample,))))
        print(f"{name}: the teacher has {top1:.2f} % top-1 and {top5:.2f} % top-5", flush=True)
    for samples, seed in product(asked.samples, asked.seeds):
        missing = _missing(name, samples, seed, asked, results)
        few = _FewImages(name, teacher, images.few_images(samples, seed) if missing else [], seed, asked, results)
        for drop, arm, rate in missing:
            shown = f"{name}, {drop} dropped, {samples} images, seed {seed}, {arm}"
            shown += "" if rate is None else f", rate {rate:g}"
            start = time.monotonic()
            try:
                student = few.student(drop, arm, rate)
            except (Diverged, _NoBlocks) as failure:
                print(f"{shown}: {failure}", flush=True)
                continue
            seconds = round(time.monotonic() - start, 1)
            ratio = results.latency_ratio(name, student.kept) or _latency_ratio(teacher, student, sample)
            top1, top5 = validated(student.network, validation, asked.device)
            device = _device_name(asked.device)
            results.add_run(Run(name, drop, samples, seed, arm, rate, student.kept, top1, top5, ratio, seconds, device))
            print(f"{shown}: {top1:.2f} %", flush=True)


def _missing(
    network: str, samples: int, seed: int, asked: argparse.Namespace, results: Results
) -> list[tuple[int, Arm, float | None]]:
    return [
        (drop, arm, rate)
        for drop in DROPPED[network]
        for arm in Arm
        if arm in asked.arms
        for rate in (KD_RATES if arm == Arm.KD else (None,))
        if results.run(network, drop, samples, seed, arm, rate) is None
    ]


def _latency_ratio(teacher: SectionedNetwork, student: Student, sample: Tensor) -> float:
    whole, short = latencies([teacher.network, student.network], (sample,))
    return round(whole.p50_ms / short.p50_ms, 4)


class _NoBlocks(Exception):
    """The arm starts from another arm's blocks, and that arm has failed."""


@dataclass(frozen=True)
class _FewImages:
    """One set of images, and the students that are made with it."""

    network: str
    teacher: SectionedNetwork
    images: list[Image.Image]
    seed: int
    asked: argparse.Namespace
    results: Results

    def student(self, drop: int, arm: Arm, rate: float | None) -> Student:
        if arm == Arm.LIT:
            return lit_student(self.teacher, self._training(), drop, self.seed, self.asked.lit)
        if arm == Arm.PRACTISE:
            return practise_student(self.teacher, self._training(), drop, self._candidates(), self._recipe())
        if arm == Arm.UNTRAINED or rate is None:
            return untrained_student(self.teacher, self._lits_blocks(drop))
        return kd_student(self.teacher, self._training(), self._lits_blocks(drop), rate, self.asked.iterations)

    def _lits_blocks(self, drop: int) -> Kept:
        run = self.results.run(self.network, drop, len(self.images), self.seed, Arm.LIT)
        if run is None:
            raise _NoBlocks("there is no student of LIT, whose blocks this arm starts from")
        return run.kept

    def _candidates(self) -> list[Candidate]:
        found = self.results.ranking(self.network, len(self.images), self.seed)
        if found is None:
            plain = plain_batches(self.images, self.asked.crop, self.asked.batch_size)
            reductions = self.results.teachers[self.network].reductions
            found = rated_blocks(self.teacher, self._training(), plain, self._recipe(), reductions)
            self.results.add_ranking(Ranking(self.network, len(self.images), self.seed, found))
        return found

    def _recipe(self) -> Recipe:
        iterations = self.asked.iterations
        return Recipe(iterations=iterations, fine_tuning_iterations=iterations, seed=self.seed)

    def _training(self) -> DataLoader[Any]:
        """A new loader, so that an arm sees the same batches whatever was run before it."""
        return training_batches(self.images, self.asked.crop, self.asked.batch_size, self.asked.workers, self.seed)


def _teacher(name: str, asked: argparse.Namespace) -> SectionedNetwork:
    file = dict(asked.weights).get(name)
    network: nn.Module = get_model(name, weights=WEIGHTS if file is None else None)
    if file is not None:
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
        network.load_state_dict(state)
    network.to(asked.device).eval()
    sample = torch.zeros(2, 3, asked.crop, asked.crop, device=asked.device)
    teacher = SectionedNetwork(network, find_layout(network, (sample,)))
    teacher.freeze()
    return teacher


@torch.no_grad()
def validated(network: nn.Module, batches: DataLoader[Any], device: torch.device) -> tuple[float, float]:
    """Top-1 and top-5 accuracy in percent, among all 1,000 classes."""
    right = torch.zeros(2)
    count = 0
    for images, labels in batches:
        best: Tensor = network(images.to(device, non_blocking=True)).topk(5, dim=1).indices.cpu()
        hit = best == labels[:, None]
        right += torch.stack([hit[:, 0].sum(), hit.sum()])
        count += len(labels)
    top1, top5 = (100 * right / count).tolist()
    return round(top1, 4), round(top5, 4)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


if __name__ == "__main__":
    sys.exit(main())
