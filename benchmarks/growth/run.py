"""`make bench-growth`: what a large ledger costs, compared with a small one in the same PostgreSQL.

Fills two ledgers with generated rows of the same mix, then calls the ledger's own functions on both in turns. Prints a
table of times and of the pages that PostgreSQL looks at, and as the last line a JSON object. Needs 16 GB of disk at its
usual size, which are free again in the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks.growth.ledgers import gib_on_disk, not_durable, two_ledgers
from benchmarks.growth.measuring import Result, Seen, measure, results
from benchmarks.growth.sizes import Sizes
from benchmarks.machine import describe
from benchmarks.stopping import exit_on_sigterm
from service.embedded.servers import EmbeddedServers

ROUNDS = 300
PROMISED_RATIO = 1.5


def print_table(found: Sequence[Result]) -> None:
    print(f"\n{'':34}{'p50, ms':>17}{'':8}{'p99, ms':>17}{'':8}{'pages':>15}")
    print(f"{'':34}{'small':>8} {'large':>8} ratio  {'small':>8} {'large':>8} ratio  {'small':>7} {'large':>7}")
    for one in found:
        a, b = one.small, one.large
        p50 = f"{a.p50_ms:8.2f} {b.p50_ms:8.2f} {one.p50_ratio:5.2f}"
        p99 = f"{a.p99_ms:8.2f} {b.p99_ms:8.2f} {one.p99_ratio:5.2f}"
        note = "" if one.promised else "  counts all"
        whole = f"  reads all of {', '.join(b.whole_tables)}" if b.whole_tables else ""
        print(f"{one.case:34}{p50}  {p99}  {a.pages:7.0f} {b.pages:7.0f}{note}{whole}")


def print_plans(both: Sequence[tuple[Seen, Seen]], number: int) -> None:
    """Of the cases that grew most in pages, in the large ledger."""
    worst = sorted(both, key=lambda two: two[0].side().pages / max(two[1].side().pages, 1))
    for _, large in worst[:number]:
        for plan in large.plans[-1].found:
            print(f"\n{large.case.name}, {plan.pages} pages\n{plan.statement}\n{json.dumps(plan.tree, indent=1)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--queued", type=int, default=100_000)
    parser.add_argument("--points", type=int, default=50_000_000, help="metric points of all jobs together")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="timed calls of each case")
    parser.add_argument("--plans", type=int, default=0, help="print the plans of so many cases that grew most")
    parser.add_argument("--folder", type=Path, help="where the data lie; by default among the temporary files")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    sizes = Sizes(arguments.jobs, arguments.queued, arguments.points)
    begun = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - begun:6.0f} s  {what}", file=sys.stderr, flush=True)

    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="lit-growth-", dir=arguments.folder))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        url = stack.enter_context(EmbeddedServers(folder, broker=False)).database_url
        with not_durable(url):
            pair = stack.enter_context(two_ledgers(url, sizes, tell))
        loaded = time.monotonic() - begun
        disk = gib_on_disk(pair.large)
        both = measure(pair, arguments.rounds, tell)
        found = results(both)
        print_table(found)
        print_plans(both, arguments.plans)
    promised = [one for one in found if one.promised]
    summary = {
        "bench": "growth",
        "machine": describe(),
        "load": round(os.getloadavg()[0], 2),
        "sizes": {"small": asdict(sizes.small()), "large": asdict(sizes)},
        "rounds": arguments.rounds,
        "load_seconds": round(loaded),
        "gib": disk,
        "cases": {one.case: asdict(one) | {"p50_ratio": one.p50_ratio, "p99_ratio": one.p99_ratio} for one in found},
        "worst_p50_ratio": max(one.p50_ratio for one in promised),
        "worst_p99_ratio": max(one.p99_ratio for one in promised),
        "above_promise": [one.case for one in promised if one.p99_ratio > PROMISED_RATIO],
    }
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    exit_on_sigterm()
    sys.exit(main())
