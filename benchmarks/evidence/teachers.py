"""The teachers of the evidence, trained with plain cross entropy on the training split.

`python -m benchmarks.evidence.teachers NAME FILE` trains one.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from lit_core.data import Dataset, augment
from lit_core.families import family_of
from lit_core.learning_rate import learning_rate
from lit_core.sampling import generator_of, rows_of, steps_per_epoch
from lit_core.scores import top1
from lit_core.spec import Architecture, OneCycle, Phase, PhaseSchedule, Schedule, Split
from lit_core.tasks.classification import predict


def train_teacher(
    architecture: Architecture, dataset: Dataset, file: Path, *, epochs: int, rate: float = 0.1, seed: int = 0
) -> float:
    """Percent of the validation split that the teacher names rightly."""
    torch.manual_seed(seed)
    network = family_of(architecture).build(architecture)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    phase = PhaseSchedule(epochs=epochs, learning_rate=rate, schedule=OneCycle(kind="one_cycle"))
    arrays, schedule = dataset.splits[Split.TRAIN], Schedule()
    steps = steps_per_epoch(len(arrays.y), schedule)
    for epoch in range(epochs):
        network.train()
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = learning_rate(phase, epoch * steps + step, steps)
            rows = rows_of(len(arrays.y), schedule, seed, Phase.LIT, epoch, step)
            x = dataset.preprocessing.apply(arrays.x[rows])
            x = augment(x, dataset.augmentation, generator_of(seed, "teacher", epoch, step))
            optimizer.zero_grad()
            F.cross_entropy(network(x), arrays.y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    accuracy = top1(predict(network, dataset, Split.VALIDATION, torch.device("cpu")))
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, file)
    return accuracy
