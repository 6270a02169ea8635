"""A database that cannot be used says why and what to do, in the farm's own words."""

import subprocess
import sys
from datetime import UTC, datetime

import pytest
from sqlalchemy.exc import IntegrityError

from farm.db import jobs
from farm.db.engine import migrate, open_database
from farm.db.tables import jobs as job_rows
from farm.domain.errors import FarmError, FolderUnusable, SchemaOutdated
from tests.db.conftest import new_job, submit_one


@pytest.mark.parametrize(
    "url", ["nonsense", "sqlite://", "postgresql://a:secret@host", "mysql://host/farm", "x://["]
)
def test_an_address_that_names_no_database_is_refused(url):
    with pytest.raises(FolderUnusable, match="not the address") as caught:
        open_database(url)
    assert "secret" not in caught.value.message


def test_a_missing_table_asks_for_the_migration(bare):
    db = open_database(bare())
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


def test_two_migrations_at_once_both_succeed(bare):
    url = bare()
    code = "import sys; from farm.db.engine import migrate; print(migrate(sys.argv[1]))"
    both = [
        subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [p.communicate(timeout=60)[0].strip() for p in both] == [migrate(url)] * 2
