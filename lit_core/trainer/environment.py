"""Prepares torch for a run, and describes what must be the same for two runs to give bit-identical results."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lit_core.exports.openvino_file import is_installed
from lit_core.measuring.cost import flops
from lit_core.trainer.allocator import keep_freed_memory, return_freed_memory
from lit_core.trainer.devices import cuda_fault
from lit_core.trainer.ranks import local_rank, local_ranks
from lit_core.training.group import Group
from lit_core.training.task import Refused
from lit_spec import ErrorType, Export, JobError, JobSpec
from lit_spec.trainer.run import TrainerRun

LEAST_FLOPS_OF_LAYER = 4_000_000
"""A tenth of a millisecond of one core. A second thread would save half of that, and takes as long to wake up."""


def prepare_torch(run: TrainerRun, *, sharded: bool = False) -> torch.device:
    """`sharded`: whether the teacher will be. Raises Refused if the device can't be used."""
    if run.device == "cuda" and (fault := cuda_fault()) is not None:
        detail = f"the worker was asked to train on cuda, but torch can't use it there: {fault}"
        raise Refused(JobError(type=ErrorType.DEVICE_UNAVAILABLE, detail=detail, field="device"))
    if sharded:
        return_freed_memory()
    else:
        keep_freed_memory()
    if run.threads:
        torch.set_num_threads(max(run.threads // local_ranks(), 1))
    # On the CPU all operations used here have a deterministic form. On CUDA torch logs a warning for those that do not.
    torch.use_deterministic_algorithms(True, warn_only=run.device == "cuda")
    # Otherwise torch then fills all new memory with NaN, which is 7 % of a ResNet-110's step by the profiler. It shows
    # operations that read what nobody has written, but torch's own don't.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if run.device == "cuda":
        torch.cuda.set_device(local_rank())
        return torch.device("cuda", local_rank())
    return torch.device(run.device)


def check_exports(exports: Sequence[Export]) -> None:
    """Raises Refused for a format that could not be written after the training."""
    if Export.OPENVINO in exports and not is_installed():
        detail = (
            "exports has openvino, but the worker has no package openvino: leave it out, or install the extra "
            "lit-compress[openvino] on the workers"
        )
        raise Refused(JobError(type=ErrorType.BAD_SPECIFICATION, detail=detail, field="exports"))


def use_threads_that_pay(network: nn.Module, sample: tuple[Tensor, ...], batch: int) -> None:
    """One thread for a network on the CPU whose layers do less for a batch than it takes to wake another thread.

    `sample` is a batch of one, and `batch` the size of those that this process trains on. What decides is the same in
    each attempt, because the number of threads changes how sums are rounded.
    """
    if sample[0].device.type != "cpu" or torch.get_num_threads() == 1:
        return
    layers = sum(1 for module in network.modules() if not any(module.children()))
    if batch * flops(network, sample) < layers * LEAST_FLOPS_OF_LAYER:
        torch.set_num_threads(1)


def environment_of(run: TrainerRun, spec: JobSpec, group: Group) -> dict[str, str]:
    device = torch.cuda.get_device_name() if run.device == "cuda" else "cpu"
    capability = torch.backends.cpu.get_cpu_capability()
    origin = run.dataset_origin
    return {
        # Data that changed under its URL changes the result.
        **({} if origin is None else {"dataset": origin.version or origin.etag or f"{origin.bytes} bytes"}),
        "device": device,
        "cpu": f"{_processor()} ({capability})",
        "threads": str(torch.get_num_threads()),
        # Sums over several processes are rounded in another order.
        "processes": str(group.size),
        "torch": str(torch.__version__),
        "precision": spec.precision.value,
    }


def _processor() -> str:
    """The model's name, because kernels are chosen by it and may round differently."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
