"""Recognising that the memory of the machine or of the GPU ran out."""

from __future__ import annotations

import torch

CPU_MESSAGES = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "unable to mmap")


def is_out_of_memory(failure: BaseException) -> bool:
    """torch has an exception of its own for this on GPUs only."""
    if isinstance(failure, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(failure)
    return isinstance(failure, RuntimeError) and any(message in text for message in CPU_MESSAGES)
