"""Whether an arm's gradients are the naive step's."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.train.arms import Arm, step_of
from benchmarks.train.process import Cell


def gradient_error(cell: Cell, arm: Arm) -> float:
    """The L2 norm of the difference of all gradients of one step, relative to the norm of the naive step's."""
    wanted, found = _gradients(cell, Arm.NAIVE), _gradients(cell, arm)
    if wanted.keys() != found.keys():
        raise ValueError(f"the arms train other parameters: {sorted(wanted.keys() ^ found.keys())}")
    difference = torch.stack([(found[name] - one).norm() for name, one in wanted.items()]).norm()
    return float(difference / torch.stack([one.norm() for one in wanted.values()]).norm())


def _gradients(cell: Cell, arm: Arm) -> dict[str, Tensor]:
    workload = cell.found()
    networks = workload.networks(torch.device(cell.device))
    # Dropout would draw other numbers in each arm.
    for module in (*networks.teacher.network.modules(), *networks.student.network.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    step_of(arm, workload, cell.loss, networks, cell.precision)()
    return {
        name: parameter.grad.double()
        for name, parameter in networks.student.network.named_parameters()
        if parameter.grad is not None
    }
