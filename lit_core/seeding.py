"""Random numbers as functions of the seed and the position, so that nothing depends on what was drawn before."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def mix(*parts: Any) -> int:
    """A seed that is unique for these parts."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_of(*parts: Any) -> torch.Generator:
    """A stream of random numbers that is unique for these parts, so that no two streams are shifted copies."""
    return torch.Generator().manual_seed(mix(*parts))


def seed_globals(seed: int) -> None:
    """Seed the global generators, from which modules draw (dropout, stochastic depth) and perhaps the data: those of
    torch on the CPU and on CUDA, Python's and numpy's."""
    # Not torch.manual_seed: before CUDA is in use it formats a stack trace, which takes a hundred times longer.
    for generator in _torch_generators():
        generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


_ONE_THREAD = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators are seeded, and afterwards have the state that they had before.

    They belong to the process, so other threads wait before they seed them too.
    """
    with _ONE_THREAD:
        torch_states = [(generator, generator.get_state()) for generator in _torch_generators()]
        python_state, numpy_state = random.getstate(), np.random.get_state()
        try:
            seed_globals(seed)
            yield
        finally:
            for generator, state in torch_states:
                generator.set_state(state)
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _torch_generators() -> list[torch.Generator]:
    """CUDA has some only once it is in use."""
    return [torch.default_generator, *torch.cuda.default_generators]
