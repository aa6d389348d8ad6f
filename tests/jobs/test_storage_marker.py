"""The marker tells the storage of one ledger from that of another, whoever writes it and however often."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text

from jobs.database.migrate import upgrade
from jobs.storage.folder import FolderStorage
from jobs.storage.marker import marker_key, storage_fault
from tests.worker.bench import Bench


def test_the_ledger_knows_its_marker_and_every_migration_leaves_it(bench: Bench) -> None:
    marker = bench.marker()
    upgrade(bench.settings.database_url or "")
    assert bench.marker() == marker
    with bench.database.session() as session:
        session.execute(text("UPDATE storage_marker SET id = 'another'"))
        assert marker_key(session) == "markers/another"


def test_a_storage_without_the_marker_is_another(bench: Bench, tmp_path: Path) -> None:
    assert storage_fault(bench.storage, bench.marker()) is None
    other = FolderStorage(tmp_path / "other")
    assert "is not the ledger's" in (storage_fault(other, bench.marker()) or "")
    other.put_bytes("markers/of-another-ledger", b"")
    assert storage_fault(other, bench.marker()) is not None
    other.put_bytes(bench.marker(), b"")
    other.put_bytes(bench.marker(), b"")
    assert storage_fault(other, bench.marker()) is None
