"""`python -m lit_core.trainer.devices`: print how many GPUs torch can use; without one exit with 1 and say why."""

from __future__ import annotations

import sys

import torch


def cuda_fault() -> str | None:
    """Why torch can't use CUDA; None if it can.

    An operation is tried, because an old driver, a wheel without CUDA or without kernels for this GPU shows only when
    the first operation runs.
    """
    try:
        torch.ones(1, device="cuda").sum().item()
    except (AssertionError, RuntimeError) as failure:
        return str(failure).strip().partition("\n")[0] or repr(failure)
    return None


if __name__ == "__main__":
    fault = cuda_fault()
    if fault is None:
        sys.stdout.write(f"{torch.cuda.device_count()}\n")
    sys.exit(fault)
