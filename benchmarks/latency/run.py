"""`make bench-latency`: the latency that is expected of students, against the one that they are measured to have.

For each network, rounds of: measure the teacher's blocks, then time teacher and shortened networks in turns. Compared
are ratios of latencies, student / teacher, within one round, and the least of many times, so that the machine's load
counts as little as possible; the medians are told beside it. Prints a table and, as the last line, a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lit_core.measuring.cost import block_latencies, latencies
from lit_core.networks.families import family_of
from lit_core.networks.families.library import create, describe
from lit_core.networks.sections import SectionedNetwork
from lit_core.networks.student import shortened
from lit_spec import Architecture, Library, LibraryRequest
from lit_spec.networks.students import evenly, first, shares

BATCHES = (1, 8)
STUDENTS = 5
"""Of each network, from one block less than the network to one block more than one a section."""
ROUNDS = 5
SECONDS = 2.0

RESNET56 = Architecture(
    family="resnet_cifar",
    depth=56,
    blocks=[9, 9, 9],
    channels=3,
    classes=10,
    options={"width": 16, "shortcut": "A", "head": "fc", "projection": "downsample"},
)


@dataclass(frozen=True)
class Network:
    name: str
    architecture: Architecture
    size: int


@dataclass(frozen=True)
class Student:
    """One student of one network at one batch: latencies as shares of the teacher's, by round."""

    network: str
    batch: int
    kept_blocks: list[list[int]]
    teacher_ms: list[float]
    expected: list[float]
    measured: list[float]
    """The least times."""
    medians: list[float]

    @property
    def errors(self) -> list[float]:
        """Of what was expected, relative, by round."""
        return _errors(self.expected, self.measured)

    @property
    def error(self) -> float:
        return statistics.median(self.errors)

    @property
    def error_of_medians(self) -> float:
        return statistics.median(_errors(self.expected, self.medians))


def _errors(expected: Sequence[float], measured: Sequence[float]) -> list[float]:
    return [one / other - 1 for one, other in zip(expected, measured, strict=True)]


def networks() -> list[Network]:
    return [
        Network("resnet56", RESNET56, 32),
        Network("tf_efficientnet_lite0", _timm("tf_efficientnet_lite0"), 128),
        Network("vit_tiny_patch16_224", _timm("vit_tiny_patch16_224"), 224),
    ]


def _timm(name: str) -> Architecture:
    request = LibraryRequest(library=Library.TIMM, name=name)
    return describe(request, create(Library.TIMM, name, {}))


def students_of(whole: Sequence[int]) -> list[list[list[int]]]:
    """Kept blocks: evenly spaced ones and the first ones in turn. The shallowest student is left out, because what is
    expected of it was measured."""
    deepest, least = sum(whole) - 1, len(whole) + 1
    depths = sorted(
        {deepest - number * (deepest - least) // (STUDENTS - 1) for number in range(STUDENTS)}, reverse=True
    )
    rules = (evenly, first)
    return [
        [rules[number % 2](count, wanted) for count, wanted in zip(whole, shares(list(whole), depth), strict=True)]
        for number, depth in enumerate(depths)
    ]


def compare(network: Network, batch: int, rounds: int, device: torch.device) -> list[Student]:
    torch.manual_seed(0)
    family = family_of(network.architecture)
    teacher = SectionedNetwork(family.build(network.architecture).to(device), family.layout(network.architecture))
    teacher.freeze()
    sample = (torch.randn(batch, 3, network.size, network.size, device=device),)
    kept = students_of([len(section) for section in teacher.sections])
    shortest = shortened(teacher, [[0] for _ in teacher.sections]).network.eval()
    shallow = [shortened(teacher, one).network.eval() for one in kept]
    students = [Student(network.name, batch, one, [], [], [], []) for one in kept]
    for _ in range(rounds):
        costs = block_latencies(teacher.network, teacher.sections, shortest, sample, seconds=SECONDS)
        whole, *found = latencies([teacher.network, *shallow], sample)
        for student, latency in zip(students, found, strict=True):
            student.teacher_ms.append(whole.p50_ms)
            student.expected.append(costs.left(student.kept_blocks) / costs.total)
            student.measured.append(latency.least_ms / whole.least_ms)
            student.medians.append(latency.p50_ms / whole.p50_ms)
    return students


def print_table(students: Sequence[Student]) -> None:
    """Latencies in percent of the teacher's."""
    print(
        f"{'network':22} {'batch':>5} {'blocks':14} {'teacher ms':>10} {'expected %':>10} {'measured %':>10} "
        f"{'error %':>8}  over rounds      of medians"
    )
    for one in students:
        blocks = ",".join(str(len(section)) for section in one.kept_blocks)
        low, high = 100 * min(one.errors), 100 * max(one.errors)
        print(
            f"{one.network:22} {one.batch:5} {blocks:14} {statistics.median(one.teacher_ms):10.3f} "
            f"{100 * statistics.median(one.expected):10.1f} {100 * statistics.median(one.measured):10.1f} "
            f"{100 * one.error:+8.1f}  {low:+6.1f} to {high:+6.1f} {100 * one.error_of_medians:+9.1f}"
        )


def summary(students: Sequence[Student], device: torch.device, rounds: int) -> dict[str, object]:
    def median(of: Sequence[Student]) -> float:
        return round(100 * statistics.median(abs(one.error) for one in of), 2)

    names = dict.fromkeys(one.network for one in students)
    return {
        "benchmark": "latency",
        "median_error_percent": median(students),
        "largest_error_percent": round(100 * max(abs(one.error) for one in students), 2),
        "median_error_of_medians_percent": round(
            100 * statistics.median(abs(one.error_of_medians) for one in students), 2
        ),
        "by_network": {name: median([one for one in students if one.network == name]) for name in names},
        "students": len(students),
        "rounds": rounds,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="by default as many as torch takes")
    parser.add_argument("--only", default="", help="part of a network's name")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    students = [
        student
        for network in networks()
        if arguments.only in network.name
        for batch in BATCHES
        for student in compare(network, batch, arguments.rounds, device)
    ]
    print_table(students)
    print(json.dumps(summary(students, device, arguments.rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
