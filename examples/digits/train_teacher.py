"""Train the example's teacher: a resnet38 of width 12 on scikit-learn's digits, with plain cross entropy.

`python examples/digits/train_teacher.py [OUTPUT]` writes teacher.safetensors beside this file. With the same torch,
processor and thread count the file comes out bit by bit the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from lit_core.data import Interface, augment, load_dataset
from lit_core.measuring.scores import top1
from lit_core.networks.families import family_of
from lit_core.tasks.classification import predict
from lit_core.training.steps import learning_rate
from lit_spec import Architecture, DatasetRequest, OneCycle, PhaseSchedule, Split

SEED = 0
BATCH = 32
SCHEDULE = PhaseSchedule(epochs=40, learning_rate=0.1, schedule=OneCycle(kind="one_cycle"))
TEACHER = Architecture(
    family="resnet_cifar",
    depth=38,
    blocks=[6, 6, 6],
    channels=1,
    classes=10,
    options={"width": 12, "shortcut": "A", "head": "fc", "projection": "downsample"},
)


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("teacher.safetensors")
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    device = torch.device("cpu")
    dataset = load_dataset(DatasetRequest(builtin="digits"), None, None, Interface(TEACHER.channels, TEACHER.classes))
    network = family_of(TEACHER).build(TEACHER)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(SEED)
    arrays = dataset.splits[Split.TRAIN]
    steps = len(arrays.y) // BATCH
    for epoch in range(SCHEDULE.epochs):
        order = torch.randperm(len(arrays.y), generator=generator)
        network.train()
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = learning_rate(SCHEDULE, epoch * steps + step, steps)
            index = order[step * BATCH : (step + 1) * BATCH]
            x = augment(dataset.preprocessing.apply(arrays.x[index]), dataset.augmentation, generator)
            optimizer.zero_grad()
            F.cross_entropy(network(x), arrays.y[index]).backward()
            optimizer.step()
        validation = top1(predict(network, dataset, Split.VALIDATION, device))
        print(f"epoch {epoch + 1:2d}: validation {validation:.2f} %")
    print(f"test {top1(predict(network, dataset, Split.TEST, device)):.2f} %")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, output)


if __name__ == "__main__":
    main()
