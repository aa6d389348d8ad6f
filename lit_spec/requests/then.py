"""Operations on the trained student: `then` of a request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

INT8 = "int8"
PRUNE = re.compile(r"prune:(0?\.\d*[1-9]\d*)")
LEAST = 0.001
"""The smallest share that may be pruned, and that may be left. Shares have three decimal places."""
USAGE = '"prune:SHARE" (as prune:0.5, half of the weights) or "int8"'


def prune_share(operation: str) -> float | None:
    """The share of the weights that is pruned, between 0 and 1; None for an operation that does not prune."""
    match = PRUNE.fullmatch(operation)
    return None if match is None else float(match[1])


def prune_shares(operations: Sequence[str]) -> list[float]:
    return [share for share in map(prune_share, operations) if share is not None]


def _operation(given: str) -> str:
    """The canonical spelling: `prune:.50` becomes `prune:0.5`."""
    if given == INT8:
        return given
    share = prune_share(given)
    if share is None or not LEAST <= share <= 1 - LEAST:
        raise ValueError(f"{given!r} is not an operation: give {USAGE}, with SHARE from {LEAST} to {1 - LEAST}")
    return f"prune:{f'{share:.3f}'.rstrip('0')}"


def _in_order(operations: list[str]) -> list[str]:
    shares = prune_shares(operations)
    if shares != sorted(set(shares)):
        raise ValueError("each pruning starts from the result of the one before it, so the shares must grow")
    if INT8 in operations[:-1]:
        raise ValueError("int8 must be the last operation: a quantised student can't be trained further")
    return operations


Operation = Annotated[str, Field(max_length=32), AfterValidator(_operation)]
Then = Annotated[list[Operation], Field(max_length=16), AfterValidator(_in_order)]
