"""What is done to a student once it is trained: `then` of a request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

INT8 = "int8"
PRUNE = re.compile(r"prune:(0?\.\d*[1-9]\d*)")
LEAST = 0.001
"""Of a share, and of what it leaves; shares have three places."""
USAGE = '"prune:SHARE" (as prune:0.5, half of the weights) or "int8"'


def prune_share(step: str) -> float | None:
    """The share of the weights that go, between 0 and 1; None for a step that prunes nothing."""
    match = PRUNE.fullmatch(step)
    return None if match is None else float(match[1])


def prune_shares(steps: Sequence[str]) -> list[float]:
    return [share for share in map(prune_share, steps) if share is not None]


def _step(given: str) -> str:
    """In one spelling: `prune:.50` is `prune:0.5`."""
    if given == INT8:
        return given
    share = prune_share(given)
    if share is None or not LEAST <= share <= 1 - LEAST:
        raise ValueError(f"{given!r} is no step: give {USAGE}, with SHARE between 0 and 1 ({LEAST} to {1 - LEAST})")
    return f"prune:{f'{share:.3f}'.rstrip('0')}"


def _in_order(steps: list[str]) -> list[str]:
    shares = prune_shares(steps)
    if shares != sorted(set(shares)):
        raise ValueError("each step prunes what the one before it left, so the shares must grow from step to step")
    if INT8 in steps[:-1]:
        raise ValueError("int8 must be the last step, once: what is quantised can't be trained further")
    return steps


Step = Annotated[str, Field(max_length=32), AfterValidator(_step)]
Then = Annotated[list[Step], Field(max_length=16), AfterValidator(_in_order)]
