"""`lit_core.compress` in a process of somebody's: its seed decides, and the process keeps its own random numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import lit_core
from lit_core.seeding import seeded

SCHEDULE = {"lit": {"epochs": 2, "learning_rate": 0.05}, "fine_tune": {"epochs": 1, "learning_rate": 0.05}}


class Block(nn.Module):
    """Skipped at random by Python's generator, noisy by numpy's, thinned out by torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x + self.second(torch.relu(self.first(x)))
        inner = torch.relu(self.first(x)) + 0.01 * float(np.random.standard_normal())
        return x + (random.random() > 0.3) * self.second(nn.functional.dropout(inner, 0.2))


def network() -> nn.Module:
    blocks = nn.Sequential(*(Block() for _ in range(4)))
    return nn.Sequential(nn.Linear(5, 8), blocks, nn.Linear(8, 3))


class Augmented(Dataset[tuple[Tensor, int]]):
    """Samples with noise from all three global generators."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        noise = torch.randn(5) + random.gauss(0, 1) + float(np.random.standard_normal())
        return torch.full((5,), row / 24) + 0.1 * noise, row % 3


def shuffled(workers: int = 0) -> DataLoader[tuple[Tensor, int]]:
    context = "fork" if workers else None
    return DataLoader(Augmented(), batch_size=8, shuffle=True, num_workers=workers, multiprocessing_context=context)


def drawn_batches() -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield torch.randn(8, 5), torch.randint(0, 3, (8,))


def student(**changes: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    teacher = network()
    # What the process has drawn before must not matter.
    torch.seed()
    random.seed()
    np.random.seed()
    arguments = {"data": shuffled(), "validation": shuffled(), "depth": 2, "schedule": SCHEDULE, **changes}
    compressed = lit_core.compress(teacher, **arguments)
    weights: dict[str, Tensor] = compressed.student.state_dict()
    return weights


def are_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("data", [shuffled, lambda: shuffled(2), drawn_batches], ids=["own", "workers", "iterator"])
def test_the_seed_decides_data_modules_and_selection(data: Any) -> None:
    schedule = {**SCHEDULE, "steps_per_epoch": 3}
    first, again, other = (
        student(data=data(), schedule=schedule, select="importance", seed=seed, precision="bfloat16")
        for seed in (0, 0, 1)
    )
    assert are_equal(first, again)
    assert not are_equal(first, other)


def draws() -> tuple[list[float], float, float]:
    return torch.randn(3).tolist(), random.random(), float(np.random.standard_normal())


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def test_compressing_leaves_the_processs_own_random_numbers_as_they_are() -> None:
    model, loader = network(), shuffled()
    seed_all(7)
    expected = draws()
    seed_all(7)
    lit_core.compress(model, loader, validation=loader, depth=2, schedule=SCHEDULE, then=["prune:0.5"])
    assert draws() == expected
    seed_all(7)
    with pytest.raises(ValueError, match="depth"):
        lit_core.compress(model, loader, depth=20, schedule=SCHEDULE)
    assert draws() == expected


def test_what_runs_in_several_threads_gives_what_it_gives_alone() -> None:
    with seeded(1):
        teacher = network()
    batches = [(torch.randn(8, 5, generator=torch.Generator().manual_seed(n)), torch.arange(8) % 3) for n in range(4)]

    def compressed(seed: int) -> bytes:
        student = lit_core.compress(teacher, batches, depth=2, seed=seed, schedule=SCHEDULE).student
        return b"".join(tensor.numpy().tobytes() for tensor in student.state_dict().values())

    alone = [compressed(seed) for seed in range(3)]
    before = torch.get_rng_state()
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(compressed, range(3)))
    assert together == alone
    assert torch.equal(torch.get_rng_state(), before)


def test_the_generators_of_cuda_are_seeded_and_kept_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = torch.Generator().manual_seed(5)
    expected = torch.Generator().manual_seed(5)
    monkeypatch.setattr(torch.cuda, "default_generators", (ours,))
    with seeded(3):
        inside = torch.rand(4, generator=ours)
    assert torch.equal(inside, torch.rand(4, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(torch.rand(4, generator=ours), torch.rand(4, generator=expected))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_cuda_the_seed_decides_and_the_processs_own_random_numbers_stay_the_same() -> None:
    first, again, other = (student(device="cuda", seed=seed) for seed in (0, 0, 1))
    assert are_equal(first, again)
    assert not are_equal(first, other)
    torch.manual_seed(7)
    expected = torch.randn(3, device="cuda")
    torch.manual_seed(7)
    lit_core.compress(network(), shuffled(), depth=2, schedule=SCHEDULE, device="cuda")
    assert torch.equal(torch.randn(3, device="cuda"), expected)
