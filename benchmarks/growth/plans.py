"""What PostgreSQL does for a statement: pages it looks at, and tables it reads from one end to the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, event

from jobs.database.connection import Database

EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "
SCANS_OF_ALL = ("Seq Scan", "Parallel Seq Scan")


@dataclass(frozen=True)
class Plan:
    statement: str
    tree: dict[str, Any]

    @property
    def pages(self) -> int:
        """Looked at, whether they were in PostgreSQL's memory or not. A page counts as often as it was looked at."""
        return int(self.tree["Shared Hit Blocks"] + self.tree["Shared Read Blocks"])

    @property
    def whole_tables(self) -> set[str]:
        """The tables that were read as a whole."""
        return {node["Relation Name"] for node in _nodes(self.tree) if node["Node Type"] in SCANS_OF_ALL}

    @property
    def removed_rows(self) -> int:
        """Rows that were read and did not belong to the answer."""
        return sum(node.get("Rows Removed by Filter", 0) * node["Actual Loops"] for node in _nodes(self.tree))


@dataclass
class Plans:
    """The plans of all statements that were run while they were watched."""

    found: list[Plan] = field(default_factory=list)

    @property
    def pages(self) -> int:
        return sum(plan.pages for plan in self.found)

    @property
    def whole_tables(self) -> set[str]:
        return set().union(*(plan.whole_tables for plan in self.found))

    @property
    def removed_rows(self) -> int:
        return round(sum(plan.removed_rows for plan in self.found))


@contextmanager
def watched(database: Database) -> Iterator[Plans]:
    """Explain each statement in the transaction that runs it, just before. What the explanation did is taken back."""
    plans = Plans()

    def explain(connection: Connection, _: object, statement: str, parameters: Any, __: object, many: bool) -> None:
        values = parameters[0] if many and isinstance(parameters, Sequence) else parameters
        cursor: Any = connection.connection.cursor()
        cursor.execute("SAVEPOINT explained")
        cursor.execute(EXPLAIN + statement, values)
        [[[found]]] = cursor.fetchall()
        cursor.execute("ROLLBACK TO SAVEPOINT explained")
        cursor.execute("RELEASE SAVEPOINT explained")
        plans.found.append(Plan(statement, found["Plan"]))

    event.listen(database.engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        event.remove(database.engine, "before_cursor_execute", explain)


def _nodes(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield tree
    for inner in tree.get("Plans", []):
        yield from _nodes(inner)
