"""What can go wrong with a database that is a file, in the farm's own words."""

import os
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import event

from farm.db import jobs
from farm.db.engine import open_database
from farm.domain.errors import DatabaseUnavailable, DiskFull, FolderUnusable
from tests.db.conftest import new_job, submit_one

pytestmark = pytest.mark.parametrize("product", ["sqlite"], indirect=True, scope="session")


@pytest.fixture(autouse=True)
def _of_this_product(product: str) -> None:
    """Every test here, also those that make their database themselves."""


def path_of(url):
    return url.removeprefix("sqlite:///")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FolderUnusable, match="nowhere") as caught:
        open_database(f"sqlite:///{tmp_path}/nowhere/farm.db")
    assert "its folder exists" in caught.value.next


def test_a_file_that_is_no_database_is_damaged(tmp_path):
    (tmp_path / "farm.db").write_bytes(b"this is not a database, " * 500)
    with pytest.raises(FolderUnusable, match="is damaged") as caught:
        open_database(f"sqlite:///{tmp_path}/farm.db")
    assert "backup" in caught.value.next


def test_damage_met_later_is_named_too(db, url):
    submit_one(db)
    db.close()
    path = Path(path_of(url))
    data = bytearray(path.read_bytes())
    for page in range(1, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(data)
    with pytest.raises(FolderUnusable, match="is damaged"):
        jobs.find(db)


def test_a_database_that_another_process_holds_is_unavailable(url):
    db = open_database(url, busy_timeout=0.01)
    holder = sqlite3.connect(path_of(url), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert jobs.find(db) == ([], None), "readers do not wait for a writer"
    with pytest.raises(DatabaseUnavailable, match="locked") as caught:
        jobs.submit(db, [new_job()])
    assert caught.value.next
    holder.execute("ROLLBACK")
    holder.close()
    submit_one(db)
    db.close()


def test_a_full_disk_is_named_and_nothing_is_half_written(db):
    submit_one(db)
    with db.read() as conn:
        pages = conn.exec_driver_sql("PRAGMA page_count").scalar_one()
    db.close()  # the limit is per connection; the pool has this one only

    @event.listens_for(db._engine, "connect")
    def limit(connection, _record):
        connection.execute(f"PRAGMA max_page_count = {pages + 3}")

    with pytest.raises(DiskFull, match="is full") as caught:
        jobs.submit(db, [new_job(f"prompt {i}", batch="b") for i in range(2000)])
    assert caught.value.next
    assert len(jobs.find(db)[0]) == 1


@pytest.mark.parametrize("code", [sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM])
def test_a_database_that_became_read_only_is_named(db, monkeypatch, code):
    def refuse(connection):
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr(db._engine.dialect, "do_commit", refuse)
    with pytest.raises(FolderUnusable, match="cannot write") as caught:
        jobs.submit(db, [new_job()])
    assert "FARM_HOME" in caught.value.next


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder_is_named(url):
    path = Path(path_of(url))
    path.chmod(0o400)
    path.parent.chmod(0o500)
    with pytest.raises(FolderUnusable, match="cannot write"):
        open_database(url)
    path.parent.chmod(0o700)


def test_every_connection_is_durable_and_checks_references(db):
    with db.read() as conn:
        pragmas = {
            name: conn.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
