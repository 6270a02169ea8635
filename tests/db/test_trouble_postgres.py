"""What can go wrong with a database that is a server: it is away, it refuses, it dies in mid-work."""

import re
import threading
import time
from concurrent.futures import Future

import psycopg
import pytest

from farm.db import jobs, leases
from farm.db.dialect import postgres_silence
from farm.db.engine import migrate, open_database
from farm.domain.errors import DatabaseRefused, DatabaseUnavailable, FarmError
from farm.domain.states import JobState
from farm.domain.worker import Beat
from tests.db.conftest import LANE, new_job, register, submit_one, video
from tests.private_servers import private_postgres

pytestmark = pytest.mark.parametrize("product", ["postgres"], indirect=True, scope="session")


@pytest.fixture(autouse=True)
def _of_this_product(product: str) -> None:
    """Every test here, also those that start a server of their own."""


@pytest.fixture
def own_server():
    """One that may be killed. It syncs: what it has answered for is on the disk."""
    with private_postgres() as server:
        migrate(server.server.url)
        yield server


def changed(url, **parts):
    found = re.fullmatch(
        r"postgresql://(?P<user>\w+):(?P<password>\w+)@(?P<host>[\w.]+):(?P<port>\d+)/(?P<name>\w+)", url
    )
    assert found
    return "postgresql://{user}:{password}@{host}:{port}/{name}".format(**{**found.groupdict(), **parts})


@pytest.mark.parametrize(
    ("parts", "kind", "says", "helps"),
    [
        ({"password": "letmein"}, DatabaseRefused, "refuses the password of user 'farm'", "FARM_DATABASE_URL"),
        ({"name": "nowhere"}, DatabaseRefused, "there is no database 'nowhere'", "createdb"),
        (
            {"port": "1"},
            DatabaseUnavailable,
            "cannot reach the database .* on 127.0.0.1:1: Connection refused",
            "start",
        ),
        ({"host": "no.such.host.invalid"}, DatabaseUnavailable, "no machine has that name", "correct it"),
        ({"name": "farm?sslmode=require"}, DatabaseRefused, "SSL was required", "sslmode"),
        ({"name": "farm?sslmoed=require"}, DatabaseRefused, "invalid connection option", "FARM_DATABASE_URL"),
    ],
)
def test_a_server_that_cannot_be_used_is_named_without_the_password(url, parts, kind, says, helps):
    with pytest.raises(DatabaseUnavailable, match=says) as caught:
        open_database(changed(url, **parts))
    assert type(caught.value) is kind
    assert helps in caught.value.next
    password = changed(url, **parts).split(":")[2].split("@")[0]
    assert password not in caught.value.message + caught.value.next


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_every_spelling_of_the_address_is_understood(url, scheme):
    db = open_database(url.replace("postgresql", scheme) + "?application_name=studio&options=-c%20work_mem%3D8MB")
    with db.read() as conn:
        settings = [conn.exec_driver_sql(f"SHOW {name}").scalar_one() for name in ("application_name", "work_mem")]
    assert settings == ["studio", "8MB"]
    assert "***" in db.name
    db.close()


def test_a_user_without_rights_is_told_so(url):
    with psycopg.connect(url, autocommit=True) as people:
        people.execute("DROP ROLE IF EXISTS guest")
        people.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    db = open_database(changed(url, user="guest", password="guest"))
    with pytest.raises(DatabaseRefused, match="permission denied for table jobs") as caught:
        jobs.counts(db)
    assert "grant" in caught.value.next
    db.close()


def test_a_server_that_only_reads_is_told_from_a_broken_one(db):
    with pytest.raises(DatabaseRefused, match="read-only") as caught, db.write() as conn:  # noqa: PT012
        conn.exec_driver_sql("SET TRANSACTION READ ONLY")  # as all are on a standby
        conn.exec_driver_sql("DELETE FROM jobs")
    assert "primary" in caught.value.next


def test_a_lock_that_stays_is_not_waited_for_for_ever(url):
    db = open_database(url, busy_timeout=0.2)
    job = submit_one(db)
    with psycopg.connect(url) as other:
        other.execute("SELECT * FROM jobs WHERE id = %s FOR UPDATE", (job.id,))
        assert jobs.get(db, job.id) == job, "readers do not wait for a writer"
        with pytest.raises(DatabaseUnavailable, match="waiting") as caught:
            jobs.cancel(db, job.id)
    assert caught.value.next
    assert jobs.cancel(db, job.id).state is JobState.CANCELLED
    db.close()


def test_whoever_has_a_person_waiting_does_not_wait_for_a_frozen_server(own_server):
    db = open_database(own_server.server.url, impatient=True)
    job = submit_one(db)
    with own_server.frozen():
        for act in (
            lambda: jobs.get(db, job.id),  # on a connection that was good before
            lambda: submit_one(db),  # on a new one
            lambda: open_database(own_server.server.url, impatient=True),
        ):
            with pytest.raises(DatabaseUnavailable, match="does not answer") as caught:
                in_time(act)
            assert "nothing that was accepted is lost" in caught.value.next
    patiently(lambda: jobs.get(db, job.id))
    assert [found.id for found in jobs.find(db)[0]] == [job.id], "what was refused was not kept"
    db.close()


def test_a_server_that_freezes_in_mid_work_is_left_by_readers_and_waited_for_by_writers(own_server, monkeypatch):
    monkeypatch.setattr(postgres_silence, "_READ", 0.5)
    db = open_database(own_server.server.url, impatient=True)
    job = submit_one(db)

    def read():
        with db.read() as conn, own_server.frozen():
            conn.exec_driver_sql("SELECT 1")

    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        in_time(read)
    with own_server.frozen(), pytest.raises(DatabaseUnavailable, match="does not answer"):
        in_time(lambda: jobs.get(db, job.id))
    patiently(lambda: jobs.get(db, job.id))
    with db.write() as conn:
        conn.exec_driver_sql("SELECT pg_sleep(1)")
    db.close()


def in_time(act):
    """What it says; an answer that never comes is a failure, not a test that hangs."""
    said: Future = Future()

    def ask():
        try:
            said.set_result(act())
        except FarmError as error:
            said.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return said.result(30)


def patiently(act):
    """As the farm's processes do: an outage is waited out."""
    while True:
        try:
            return act()
        except DatabaseUnavailable:
            time.sleep(0.05)


def test_acceptance_is_durable_whatever_the_servers_default_is(db):
    with db.write() as conn:
        assert conn.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"


def test_reading_is_of_one_moment_and_cannot_write(db):
    with db.read() as conn:
        before = conn.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one()
        submit_one(db)
        assert conn.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one() == before
    with pytest.raises(DatabaseRefused), db.read() as conn:
        conn.exec_driver_sql("DELETE FROM jobs")


def test_two_who_stand_in_each_others_way_are_told_apart_from_a_lost_connection(db, url):
    """A deadlock: the server ends one of both, for certain, and a submission is simply made again."""
    first, second = submit_one(db), submit_one(db)
    other = open_database(url)
    met = threading.Barrier(2)
    said: list[FarmError] = []

    def lock(database, ids):
        try:
            with database.write() as conn:
                for i, job_id in enumerate(ids):
                    conn.exec_driver_sql("SELECT 1 FROM jobs WHERE id = %s FOR UPDATE", (job_id,))
                    if i == 0:
                        met.wait()
        except FarmError as error:
            said.append(error)

    threads = [
        threading.Thread(target=lock, args=(db, [first.id, second.id])),
        threading.Thread(target=lock, args=(other, [second.id, first.id])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [error.message for error in said] == ["another transaction was in the way"]
    other.close()


def test_who_asks_seldom_keeps_no_connection(url):
    db = open_database(url, pooled=False)
    submit_one(db)
    with psycopg.connect(url) as people:
        count = people.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        ).fetchone()
    assert count == (0,)


def test_a_kill_in_mid_work_loses_nothing_that_was_accepted(own_server):
    """Submitters and a worker go on while the server is killed and started again; every answer holds."""
    url = own_server.server.url
    db = open_database(url)
    register(db)
    over = threading.Event()
    accepted: list[str] = []
    done: dict[str, int] = {}
    troubles: list[FarmError] = []

    def patiently(act):
        """As the farm's processes do: an outage is waited out."""
        while True:
            try:
                return act()
            except DatabaseUnavailable as error:
                troubles.append(error)
                over.wait(0.05)

    def submit(name: str) -> None:
        mine = open_database(url)
        n = 0
        while not over.is_set():
            wish = new_job(idempotency_key=f"{name}-{n}")
            (made,) = patiently(lambda wish=wish: jobs.submit(mine, [wish]))
            accepted.append(made.job.id)
            n += 1
        mine.close()

    def work() -> None:
        mine = open_database(url)
        while not over.is_set():
            given = patiently(lambda: leases.claim(mine, "w1", LANE))
            if given is not None:
                render(mine, given.job, given.epoch)
        mine.close()

    def render(mine, job: str, epoch: int) -> None:
        patiently(lambda: leases.renew(mine, [Beat("w1", job, epoch, None, (), "busy", None, 0)]))
        if patiently(lambda: leases.start(mine, job, epoch)) and patiently(
            lambda: leases.finish(mine, job, epoch, video(job, epoch), {})
        ):
            done[job] = epoch

    threads = [threading.Thread(target=submit, args=(f"s{n}",)) for n in range(2)] + [threading.Thread(target=work)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        before, finished = len(accepted), len(done)
        _wait(lambda before=before, finished=finished: len(accepted) > before + 20 and len(done) > finished + 5)
        own_server.kill()
        own_server.start()
    before = len(accepted)
    _wait(lambda: len(accepted) > before + 20)
    over.set()
    for thread in threads:
        thread.join(60)
    assert troubles, "the kills were noticed"
    assert all(error.next for error in troubles)
    assert len(set(accepted)) == len(accepted)
    for job_id in accepted:
        job = jobs.get(db, job_id)
        if job_id in done:
            assert (job.state, job.artifact) == (JobState.SUCCEEDED, video(job_id, done[job_id]))
    assert sum(jobs.counts(db).values()) == len(accepted)
    db.close()


def _wait(condition) -> None:
    waiting = threading.Event()
    for _ in range(3000):
        if condition():
            return
        waiting.wait(0.01)
    pytest.fail("it did not happen")
