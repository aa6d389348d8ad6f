"""Real workers in processes of their own, on one ledger, so that they can be killed and frozen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.machines import Machines
from tests.worker.bench import Bench


@pytest.fixture
def machines(bench: Bench) -> Iterator[Machines]:
    made = Machines(bench)
    yield made
    made.stop()
