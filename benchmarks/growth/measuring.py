"""Calls each case on both ledgers in turns: how long it takes, and how many pages PostgreSQL looks at."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.growth.cases import Case, Ledger
from benchmarks.growth.ledgers import Pair
from benchmarks.growth.plans import Plans, watched

WARM_UP = 20
"""Calls of each case before those that count."""
EXPLAINED = 5
"""So often each case is explained; the median counts."""


@dataclass(frozen=True)
class Side:
    """What a case costs in one of the ledgers."""

    p50_ms: float
    p99_ms: float
    pages: float
    """That PostgreSQL looks at."""
    whole_tables: list[str]
    """That PostgreSQL read from one end to the other."""


@dataclass(frozen=True)
class Result:
    case: str
    promised: bool
    small: Side
    large: Side

    @property
    def p50_ratio(self) -> float:
        return round(self.large.p50_ms / self.small.p50_ms, 2)

    @property
    def p99_ratio(self) -> float:
        return round(self.large.p99_ms / self.small.p99_ms, 2)


@dataclass
class Seen:
    """What was seen of one case in one ledger."""

    ledger: Ledger
    case: Case
    plans: list[Plans] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def explain(self) -> None:
        with watched(self.ledger.database) as plans:
            self._call()
        self.plans.append(plans)

    def time(self) -> None:
        self.times.append(self._call())

    def side(self) -> Side:
        ordered = sorted(self.times) or [0.0]
        return Side(
            p50_ms=round(statistics.median(ordered), 3),
            p99_ms=round(ordered[int(0.99 * (len(ordered) - 1))], 3),
            pages=statistics.median(plans.pages for plans in self.plans),
            whole_tables=sorted(set().union(*(plans.whole_tables for plans in self.plans))),
        )

    def _call(self) -> float:
        """Milliseconds of one transaction."""
        begun = time.perf_counter()
        with self.ledger.database.session() as session:
            self.case.call(session)
        return (time.perf_counter() - begun) * 1000


def measure(
    pair: Pair, rounds: int, tell: Callable[[str], None] = lambda _: None, *, explained: int = EXPLAINED
) -> list[tuple[Seen, Seen]]:
    """Explain, then time all cases, small and large in turns. Without `rounds` nothing is timed."""
    lengths = pair.small.lengths()
    small = [Seen(pair.small, case) for case in pair.small.cases(lengths)]
    large = [Seen(pair.large, case) for case in pair.large.cases(lengths)]
    both = list(zip(small, large, strict=True))
    for _ in range(explained):
        for one in (seen for two in both for seen in two):
            one.explain()
    for number in range(rounds and rounds + WARM_UP):
        if number == WARM_UP:
            for one in (*small, *large):
                one.times.clear()
        if number % 50 == 0:
            tell(f"round {number} of {rounds + WARM_UP}")
        for two in both:
            for one in two if number % 2 else reversed(two):
                one.time()
    return both


def results(both: Sequence[tuple[Seen, Seen]]) -> list[Result]:
    return [Result(small.case.name, small.case.promised, small.side(), large.side()) for small, large in both]
