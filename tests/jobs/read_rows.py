"""How many rows a claim reads."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from benchmarks.growth.plans import watched
from jobs.ledger import attempts
from jobs.ledger.attempts import Claim
from lit_spec import SPEC_VERSION
from tests.worker.bench import Bench


def claim_and_count_rows(bench: Bench, *devices: str) -> tuple[Claim | None, int]:
    """The claim, and the entries of tables and indexes that PostgreSQL read for it."""
    with bench.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE jobs"))
    with watched(bench.database) as plans, bench.database.session() as session:
        taken = attempts.claim(session, "w", devices, [SPEC_VERSION], 60)
    return taken, sum(_read_rows(plan.tree) for plan in plans.found)


def _read_rows(plan: dict[str, Any]) -> int:
    removed = sum(plan.get(name, 0) for name in ("Rows Removed by Filter", "Rows Removed by Index Recheck"))
    own = round((plan["Actual Rows"] + removed) * plan["Actual Loops"]) if "Relation Name" in plan else 0
    return own + sum(_read_rows(inner) for inner in plan.get("Plans", []))
