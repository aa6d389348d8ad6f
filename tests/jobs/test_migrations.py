"""The migrations make what the models say, may be run by anyone at any time, and can be taken back."""

from __future__ import annotations

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from jobs.database.connection import Database
from jobs.database.migrate import MIGRATIONS, is_current, upgrade
from jobs.database.models import Base
from jobs.ledger import attempts, keys, owned_jobs, quotas
from jobs.ledger.attempts import Artifact, Metric
from lit_spec import SPEC_VERSION
from tests.jobs.racing import together
from tests.worker.bench import OWNER, Bench

FILES = {"files": '[{"size": 5}, {"size": 7}]'}

# As the server spells them, predicates of indexes and conditions of checks included: alembic doesn't compare these.
DEFINITIONS = """
SELECT conrelid::regclass::text || ': ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = current_schema()::regnamespace
UNION ALL
SELECT replace(indexdef, current_schema() || '.', '') FROM pg_indexes WHERE schemaname = current_schema()
UNION ALL
SELECT concat_ws(' ', table_name, column_name, data_type, udt_name, column_default, is_nullable)
FROM information_schema.columns WHERE table_schema = current_schema()
"""
OURS = """
SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
UNION SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype NOT IN ('b', 'c')
"""


def url(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


def downgrade(database: Database, revision: str = "base") -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


def definitions(connection: Connection) -> set[str]:
    found = set(connection.scalars(text(DEFINITIONS)))
    return {line for line in found if "alembic_version" not in line}


def ours(database: Database) -> set[str]:
    with database.engine.connect() as connection:
        return set(connection.scalars(text(OURS)))


def test_the_migrated_schema_is_that_of_the_models(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": Base.metadata}
        )
        assert compare_metadata(context, Base.metadata) == []
        migrated = definitions(connection)
        connection.execute(text("CREATE SCHEMA from_models"))
        connection.execute(text("SET search_path TO from_models"))
        Base.metadata.create_all(connection)
        assert definitions(connection) == migrated
        assert any("ck_jobs_lease" in line for line in migrated)


def test_upgrading_again_changes_nothing(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("INSERT INTO workers VALUES ('w', 'host', '{cpu}', '{1}')"))
    before = ours(database)
    upgrade(url(database))
    with database.engine.connect() as connection:
        assert is_current(connection)
        assert connection.scalar(text("SELECT count(*) FROM workers")) == 1
    assert ours(database) == before


def test_downgrading_leaves_nothing_and_concurrent_upgrades_bring_it_back(database: Database) -> None:
    before = ours(database)
    assert {"jobs", "ix_jobs_queued", "refuse_change_of_terminal_job"} <= before
    downgrade(database)
    assert ours(database) == {"alembic_version", "alembic_version_pkc"}
    with database.engine.begin() as connection:
        assert not is_current(connection)
        # As in a new database: alembic's own table, too, is made by one of them only.
        connection.execute(text("DROP TABLE alembic_version"))
    together([lambda: upgrade(url(database))] * 2)
    assert ours(database) == before
    with database.engine.connect() as connection:
        assert is_current(connection)


def test_keys_and_finished_jobs_of_before_get_owners_scopes_and_sizes(bench: Bench) -> None:
    job = bench.job()
    with bench.database.session() as session:
        keys.create(session, "old")
        session.execute(text("UPDATE jobs SET state = 'succeeded', finished_at = now(), manifest = :files"), FILES)
        [old] = keys.all_keys(session)
    downgrade(bench.database, "0008")
    upgrade(url(bench.database))
    assert bench.row(job).stored_bytes == 12
    with bench.database.session() as session:
        [key] = keys.all_keys(session)
        assert (key.owner, key.scopes, key.expires_at) == (old.id, ["read", "submit"], None)
        assert keys.hash_secret("x") != key.hash == old.hash


def test_metrics_tags_and_bytes_of_before_come_along_and_go_back(bench: Bench) -> None:
    job = bench.job(tags=["a", "b", "a"])
    with bench.database.session() as session:
        claim = attempts.claim(session, "w", ["cpu"], [SPEC_VERSION], 60)
        assert claim is not None
        numbers = [Metric("lit", epoch, name, 1 / (3 * epoch)) for epoch in (1, 2) for name in ("loss", "seconds")]
        attempts.record(session, claim, [], [*numbers, Metric("fine_tune", 1, "loss", 5e-324)], None, None)
        attempts.succeed(session, claim, {}, [Artifact("student", "jobs/x/1/student", 1000, "00")])
    downgrade(bench.database, "0015")
    with bench.database.session() as session:
        old = session.execute(text("SELECT name, value, attempt FROM metrics ORDER BY phase, epoch, name")).all()
        assert old[:2] == [("loss", 5e-324, 1), ("loss", 1 / 3, 1)]
        assert len(old) == 5
    upgrade(url(bench.database))
    assert bench.metrics(job) == {
        **{(one.phase, one.epoch, one.name): one.value for one in numbers},
        ("fine_tune", 1, "loss"): 5e-324,
    }
    with bench.database.session() as session:
        assert [found.id for found in owned_jobs.list_page(session, OWNER, tag="a")] == [job]
        assert quotas.usage(session, OWNER).bytes == 1000 + len(b"a teacher")
