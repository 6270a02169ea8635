"""Migrations and metadata are one schema, wherever the migrations lie."""

import shutil

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect
from sqlalchemy.exc import IntegrityError

from farm.db import engine
from farm.db.engine import check_schema, migrate, migrations_folder, open_database
from farm.db.tables import metadata
from farm.domain.errors import SchemaOutdated


def test_metadata_and_migrations_agree(db):
    with db.read() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


_SQLITE = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'alembic_version'"
_POSTGRES = """
    SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
    UNION ALL SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid <> 'alembic_version'::regclass
    UNION ALL SELECT relname, array_to_string(reloptions, ',') FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND reloptions IS NOT NULL
    UNION ALL SELECT table_name || '.' || column_name,
        concat_ws(' ', data_type, character_maximum_length, collation_name, is_nullable, column_default)
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
"""


def test_constraints_and_indexes_are_the_same_word_for_word(db, bare):
    """CHECKs, descending indexes, collations and fill factors are beyond what alembic compares."""
    fresh = open_database(bare())
    with fresh.write() as conn:
        conn.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        metadata.create_all(conn)

    def schema(database) -> dict[str, list[str]]:
        with database.read() as conn:
            return {
                # A column that was added later stands at the end: the order says nothing. Nor do quotes.
                name: sorted(" ".join(part.split()).rstrip(" )") for part in words.replace('"', "").split(","))
                for name, words in conn.exec_driver_sql(_SQLITE if database.dialect == "sqlite" else _POSTGRES)
            }

    assert schema(db) == schema(fresh)
    assert len(schema(db)) > 10
    fresh.close()


def test_what_is_in_the_database_survives_the_migrations(tmp_path):
    """From the first schema to the newest: a job that is being rendered keeps its lease."""
    url = f"sqlite:///{tmp_path}/farm.db"
    database = open_database(url)
    with database.write() as conn:
        config = engine._config()
        config.attributes["connection"] = conn
        command.upgrade(config, "0001")
        conn.exec_driver_sql(
            "INSERT INTO workers (id, node, gpu, device_name, pid, models, wish, state, started_at, heartbeat_at,"
            " jobs_done) VALUES ('w', 'n', 'g', 'd', 1, '[]', 'run', 'busy', '2026-01-01', '2026-01-01', 0)"
        )
        conn.exec_driver_sql(
            "INSERT INTO lanes (id, owner, project, class, model, virtual_time, weight)"
            " VALUES ('l', 'o', 'p', 'bulk', 'm', 0, 1)"
        )
        conn.exec_driver_sql(
            "INSERT INTO jobs (id, owner, project, lane, spec, model, model_digest, prompt, tags, priority, state,"
            " epoch, failures, created_at, updated_at) VALUES ('j', 'o', 'p', 'l', '{}', 'm', 'd', 'x', '{}', 0,"
            " 'running', 1, 0, '2026-01-01', '2026-01-01')"
        )
        for epoch, end in ((1, "'lost', '2026-01-01'"), (2, "NULL, NULL")):
            conn.exec_driver_sql(
                "INSERT INTO attempts (job, epoch, worker, gpu, timings, claimed_at, started_at, outcome,"
                f" finished_at) VALUES ('j', {epoch}, 'w', 'g', '{{}}', '2026-01-01', '2026-01-01', {end})"
            )
        conn.exec_driver_sql(
            "INSERT INTO leases (job, epoch, worker, expires_at, stage, k, n)"
            " VALUES ('j', 1, 'w', '2026-01-01', 'denoise', 3, 4)"
        )
    migrate(url)
    with database.write() as conn:
        assert conn.exec_driver_sql("SELECT job, stage, k FROM leases").fetchall() == [("j", "denoise", 3)]
        conn.exec_driver_sql("UPDATE leases SET stage = 'image'")
        assert conn.exec_driver_sql("SELECT available FROM workers").fetchall() == [(None,)]
        (times,) = conn.exec_driver_sql("SELECT renewed_at, progress_at FROM leases").fetchall()
        assert None not in times, "it is as if it had just been renewed: nobody is blamed for the upgrade"
        with pytest.raises(IntegrityError, match="NOT NULL"):
            conn.exec_driver_sql("UPDATE leases SET progress_at = NULL")
        assert conn.exec_driver_sql("SELECT memory_plan, pardoned, avoid FROM jobs").fetchall() == [(0, 0, None)]
        assert conn.exec_driver_sql("SELECT epoch, blamed FROM attempts ORDER BY epoch").fetchall() == [
            (1, 1),
            (2, 0),
        ]
        with pytest.raises(IntegrityError, match="stage_known"):
            conn.exec_driver_sql("UPDATE leases SET stage = 'nonsense'")
    database.close()


def test_migrating_twice_changes_nothing(url):
    assert migrate(url) == migrate(url)


def test_a_database_without_schema_is_refused_with_the_command_that_helps(bare):
    db = open_database(bare())
    with pytest.raises(SchemaOutdated) as caught:
        check_schema(db)
    assert "is empty" in caught.value.message
    assert "farm migrate" in caught.value.next
    db.close()


def test_a_database_of_a_newer_farm_is_refused_by_all(url):
    db = open_database(url)
    with db.write() as conn:
        conn.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaOutdated, match="newer turbofarm"):
        check_schema(db)
    db.close()
    with pytest.raises(SchemaOutdated, match="newer turbofarm"):
        migrate(url)


def test_migrations_inside_the_package_are_found_first(bare, url, tmp_path, monkeypatch):
    """A wheel carries them as farm/db/migrations."""
    package = tmp_path / "site-packages" / "farm" / "db"
    shutil.copytree(migrations_folder(), package / "migrations")
    monkeypatch.setattr(engine, "__file__", str(package / "engine.py"))
    assert migrations_folder() == package / "migrations"
    assert migrate(bare()) == migrate(url)


def test_a_failed_migration_leaves_nothing_behind(bare, tmp_path, monkeypatch):
    package = tmp_path / "farm" / "db"
    shutil.copytree(migrations_folder(), package / "migrations")
    newest = max(path.stem[:4] for path in (package / "migrations" / "versions").glob("0*.py"))
    (package / "migrations" / "versions" / "9999_broken.py").write_text(
        f'revision = "9999"\ndown_revision = "{newest}"\n'
        "def upgrade():\n    from alembic import op\n    op.execute('CREATE TABLE half (x INTEGER)')\n    1 / 0\n"
    )
    monkeypatch.setattr(engine, "__file__", str(package / "engine.py"))
    url = bare()
    with pytest.raises(ZeroDivisionError):
        migrate(url)
    db = open_database(url)
    with db.read() as conn:
        assert inspect(conn).get_table_names() == []
    db.close()
