"""Migrations and metadata are one schema, wherever the migrations lie."""

import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import IntegrityError

from farm.db import engine
from farm.db.engine import check_schema, migrate, migrations_folder, open_database
from farm.db.tables import metadata
from farm.domain.errors import SchemaOutdated


def test_metadata_and_migrations_agree(db):
    with db.read() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_constraints_and_indexes_are_the_same_word_for_word(db, tmp_path):
    """CHECKs and descending indexes are beyond what alembic compares."""
    fresh = open_database(f"sqlite:///{tmp_path}/fresh.db")
    with fresh.write() as conn:
        metadata.create_all(conn)

    def schema(database) -> dict[str, list[str]]:
        query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'alembic_version'"
        with database.read() as conn:
            return {
                # A column that was added later stands at the end: the order says nothing. Nor do quotes.
                name: sorted(" ".join(part.split()).rstrip(" )") for part in sql.replace('"', "").split(","))
                for name, sql in conn.exec_driver_sql(query)
            }

    assert schema(db) == schema(fresh)
    fresh.close()


def test_what_is_in_the_database_survives_the_migrations(tmp_path):
    """From the first schema to the newest: a job that is being rendered keeps its lease."""
    path = tmp_path / "farm.db"
    database = open_database(f"sqlite:///{path}")
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
        conn.exec_driver_sql(
            "INSERT INTO leases (job, epoch, worker, expires_at, stage, k, n)"
            " VALUES ('j', 1, 'w', '2026-01-01', 'denoise', 3, 4)"
        )
    migrate(database.url)
    with database.write() as conn:
        assert conn.exec_driver_sql("SELECT job, stage, k FROM leases").fetchall() == [("j", "denoise", 3)]
        conn.exec_driver_sql("UPDATE leases SET stage = 'image'")
        assert conn.exec_driver_sql("SELECT available FROM workers").fetchall() == [(None,)]
        with pytest.raises(IntegrityError, match="stage_known"):
            conn.exec_driver_sql("UPDATE leases SET stage = 'nonsense'")
    database.close()


def test_migrating_twice_changes_nothing(url):
    assert migrate(url) == migrate(url)


def test_a_database_without_schema_is_refused_with_the_command_that_helps(tmp_path):
    db = open_database(f"sqlite:///{tmp_path}/new.db")
    with pytest.raises(SchemaOutdated) as caught:
        check_schema(db)
    assert "is empty" in caught.value.message
    assert "farm migrate" in caught.value.next
    db.close()


def test_a_database_of_a_newer_farm_is_refused_by_all(url):
    with sqlite3.connect(url.removeprefix("sqlite:///")) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    db = open_database(url)
    with pytest.raises(SchemaOutdated, match="newer turbofarm"):
        check_schema(db)
    db.close()
    with pytest.raises(SchemaOutdated, match="newer turbofarm"):
        migrate(url)


def test_migrations_inside_the_package_are_found_first(tmp_path, monkeypatch):
    """A wheel carries them as farm/db/migrations."""
    package = tmp_path / "site-packages" / "farm" / "db"
    shutil.copytree(migrations_folder(), package / "migrations")
    monkeypatch.setattr(engine, "__file__", str(package / "engine.py"))
    assert migrations_folder() == package / "migrations"
    assert migrate(f"sqlite:///{tmp_path}/farm.db") == newest(package / "migrations")


def newest(migrations: Path) -> str:
    return max(path.name[:4] for path in (migrations / "versions").glob("[0-9]*.py"))


def test_a_failed_migration_leaves_nothing_behind(tmp_path, monkeypatch):
    package = tmp_path / "farm" / "db"
    shutil.copytree(migrations_folder(), package / "migrations")
    broken = Path(package / "migrations" / "versions" / "9999_broken.py")
    broken.write_text(
        f'revision = "9999"\ndown_revision = "{newest(package / "migrations")}"\n'
        "def upgrade():\n    from alembic import op\n    op.execute('CREATE TABLE half (x)')\n    1 / 0\n"
    )
    monkeypatch.setattr(engine, "__file__", str(package / "engine.py"))
    path = tmp_path / "farm.db"
    with pytest.raises(ZeroDivisionError):
        migrate(f"sqlite:///{path}")
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT name FROM sqlite_master").fetchall() == []
