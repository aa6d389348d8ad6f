"""`python -m lit_core.trainer.devices`: exit with 0 if torch can use CUDA, else with 1 and a line that says why."""

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
    sys.exit(cuda_fault())
