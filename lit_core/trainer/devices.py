"""`python -m lit_core.trainer.devices`: exit code 0 when torch can use CUDA here, else 1 and one line that says why."""

from __future__ import annotations

import sys

import torch


def cuda_fault() -> str | None:
    """Why torch can't use CUDA; None when it can.

    It is tried, not asked for: a driver that is too old, a wheel without CUDA and one without kernels for this GPU all
    show by the first operation alone.
    """
    try:
        torch.ones(1, device="cuda").sum().item()
    except (AssertionError, RuntimeError) as failure:
        return str(failure).strip().partition("\n")[0] or repr(failure)
    return None


if __name__ == "__main__":
    sys.exit(cuda_fault())
