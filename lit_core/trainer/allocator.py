"""The C library's allocator in a process that trains."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

# From glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
MIB = 1 << 20


def keep_freed_memory() -> bool:
    """Let malloc keep what a training step frees for the next step; whether this C library can.

    glibc gives large blocks back to the system when they are freed, so that each step takes its activations from the
    system again, page by page: at batch 128 that was 7 % of a step of a ResNet-110. Blocks of 1 GiB and more, such as
    data sets, still go back.
    """
    return _set({MMAP_THRESHOLD: 1024 * MIB, TRIM_THRESHOLD: 2047 * MIB, TOP_PAD: 64 * MIB})


def return_freed_memory() -> bool:
    """Let malloc give each large block back to the system when it is freed; whether this C library can.

    For a sharded teacher, of which each pass gathers and frees one block after the other. glibc soon takes such blocks
    from its heap, where they leave gaps: a pass of a ViT-B needed 600 MiB there, and 100 MiB so.
    """
    return _set({MMAP_THRESHOLD: MIB})


def _set(options: Mapping[int, int]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, value) == 1 for option, value in options.items())
