"""A database that cannot be used says why and what to do, in the farm's own words."""

import os
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from farm.db import jobs
from farm.db.engine import migrate, open_database
from farm.db.tables import jobs as job_rows
from farm.domain.errors import DatabaseUnavailable, DiskFull, FarmError, FolderUnusable, SchemaOutdated
from tests.db.conftest import new_job, submit_one


def path_of(url):
    return url.removeprefix("sqlite:///")


@pytest.mark.parametrize("url", ["nonsense", "sqlite://", "postgresql://host/farm", ""])
def test_an_address_that_names_no_database_file_is_refused(url):
    with pytest.raises(FolderUnusable, match="not the address"):
        open_database(url)


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
def test_a_read_only_folder_is_named(url, tmp_path):
    os.chmod(path_of(url), 0o400)
    tmp_path.chmod(0o500)
    with pytest.raises(FolderUnusable, match="cannot write"):
        open_database(url)
    tmp_path.chmod(0o700)


def test_a_missing_table_asks_for_the_migration(tmp_path):
    db = open_database(f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(SchemaOutdated) as caught:
        jobs.find(db)
    assert "farm migrate" in caught.value.next
    db.close()


def test_a_mistake_of_ours_is_not_dressed_up_as_theirs(db):
    job = submit_one(db)
    with pytest.raises(IntegrityError), db.write() as conn:
        conn.execute(job_rows.update().where(job_rows.c.id == job.id).values(state="succeeded"))


@pytest.mark.parametrize(
    ("values", "check"),
    [
        ({"state": "succeeded", "artifact": {}}, "finished_when_final"),
        ({"finished_at": datetime(2026, 1, 1, tzinfo=UTC)}, "finished_when_final"),
        ({"state": "succeeded", "finished_at": datetime(2026, 1, 1, tzinfo=UTC)}, "success_has_video"),
    ],
)
def test_the_data_itself_refuses_an_impossible_job(db, values, check):
    job = submit_one(db)
    with pytest.raises(IntegrityError, match=check), db.write() as conn:
        conn.execute(job_rows.update().where(job_rows.c.id == job.id).values(**values))


def test_every_error_of_this_room_says_what_to_do(db):
    """A crude net: whatever is raised to people has a next step."""
    submit_one(db, idempotency_key="k")
    asks = [
        lambda: jobs.get(db, "job_nothere"),
        lambda: jobs.release(db, jobs.find(db)[0][0].id),
        lambda: jobs.find(db, after="x"),
        lambda: jobs.submit(db, [new_job("other", idempotency_key="k")]),
    ]
    for ask in asks:
        with pytest.raises(FarmError) as caught:
            ask()
        assert caught.value.next


def test_every_connection_is_durable_and_checks_references(db):
    with db.read() as conn:
        pragmas = {
            name: conn.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


SUBMITTER = """
import sys
from farm.db import jobs
from farm.db.engine import open_database
from tests.db.conftest import new_job
db = open_database(sys.argv[1])
while True:
    (s,) = jobs.submit(db, [new_job()])
    print(s.job.id, flush=True)
"""


def test_what_was_accepted_survives_kill_9(url):
    process = subprocess.Popen([sys.executable, "-c", SUBMITTER, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    accepted = [process.stdout.readline().strip() for _ in range(20)]
    process.kill()
    accepted += process.stdout.read().split()
    process.wait()
    db = open_database(url)
    for job_id in accepted:
        assert jobs.get(db, job_id).id == job_id
    db.close()


def test_two_migrations_at_once_both_succeed(tmp_path):
    url = f"sqlite:///{tmp_path}/farm.db"
    code = "import sys; from farm.db.engine import migrate; print(migrate(sys.argv[1]))"
    both = [
        subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [p.communicate(timeout=60)[0].strip() for p in both] == [migrate(url)] * 2
