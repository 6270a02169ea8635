"""While the database or the store is away the commands say so in one sentence, and `farm watch` watches on."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from farm.api.server import build_services
from farm.db.engine import migrate
from farm.settings import load_settings
from tests.cli.command import Command
from tests.private_servers import Server, private_postgres
from tests.served.farm import Served
from tests.served.machine import Machine, until
from tests.served.outage import Outage, outage

__all__ = ["outage"]


def lines_until(process: "subprocess.Popen[bytes]", word: str) -> list[str]:
    """What it says on stderr up to the line with this word."""
    said: list[str] = []
    assert process.stderr is not None
    while not said or word not in said[-1]:
        line = process.stderr.readline().decode()
        assert line, said
        said.append(line.strip())
    return said


@pytest.fixture
def job(farm: Command) -> str:
    return farm("submit", "a kite").out.strip()


@pytest.fixture
def watching(farm: Command, job: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = farm.start("watch", job)
    lines_until(process, "queued")
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("arguments", [["list"], ["submit", "a kite"], ["workers"], ["why", "job_abcdef"]])
def test_a_command_says_one_clear_line(farm: Command, outage: Outage, arguments: list[str]) -> None:
    outage.database = True
    done = farm(*arguments)
    assert (done.code, done.out) == (1, "")
    first, *rest = done.err.splitlines()
    assert first == "error database_unavailable: cannot reach the database farm on db.studio:5432"
    assert rest == ["it is tried again"]


@pytest.mark.parametrize(("part", "word"), [("database", "database is away"), ("store", "store of videos is away")])
def test_status_says_what_it_means(farm: Command, outage: Outage, part: str, word: str) -> None:
    setattr(outage, part, True)
    done = farm("status")
    assert done.code == 1
    assert word in done.out
    assert "Nothing is lost" in done.out
    assert farm("status", "--json").json["outage"][part]
    setattr(outage, part, False)
    well = {"database": None, "store": None, "says": ""}
    until(lambda: farm("status", "--json").json["outage"] == well)  # the store is not asked every time


def test_a_watch_goes_on_through_an_outage_of_the_database(
    watching: "subprocess.Popen[bytes]", outage: Outage, machine: Machine
) -> None:
    outage.database = True
    assert sum("Nothing is lost" in line for line in lines_until(watching, "Watching on.")) == 1
    outage.database = False
    lines_until(watching, "it is back")
    machine.take()
    machine.finish()
    lines_until(watching, "succeeded")
    assert watching.wait(30) == 0


def test_what_happened_meanwhile_is_not_missed(
    watching: "subprocess.Popen[bytes]", outage: Outage, machine: Machine
) -> None:
    machine.take()
    outage.database = True
    lines_until(watching, "Watching on.")
    outage.database = False
    machine.finish()
    lines_until(watching, "succeeded")
    assert watching.wait(30) == 0


def test_a_watch_may_begin_while_the_database_is_away(
    farm: Command, job: str, outage: Outage, machine: Machine
) -> None:
    outage.database = True
    process = farm.start("watch", job)
    lines_until(process, "Watching on.")
    outage.database = False
    lines_until(process, "it is back")
    machine.take()
    machine.finish()
    lines_until(process, "succeeded")
    assert process.wait(30) == 0


def test_a_list_of_workers_that_is_watched_asks_again(farm: Command, outage: Outage, machine: Machine) -> None:
    outage.database = True
    process = farm.start("workers", "--watch", "--json")
    lines_until(process, "asking again")
    outage.database = False
    assert process.stdout is not None
    assert b'"id": "w1"' in process.stdout.readline()
    process.kill()
    process.wait()


@pytest.fixture
def freezing() -> Iterator[Server]:
    with private_postgres() as server:
        yield server


def test_every_door_says_that_a_frozen_database_does_not_answer(freezing: Server, tmp_path: Path) -> None:
    """Its machine still takes what is sent to it: nobody hears that it is away, one has to notice."""
    url = freezing.server.url
    migrate(url)
    served = Served(build_services(load_settings(home=tmp_path, database_url=url, store=str(tmp_path / "store"))))
    served.start()
    farm = Command.of(served, tmp_path)
    kept = farm("submit", "a kite").out.strip()
    try:
        with freezing.frozen():
            status = farm("status")
            assert status.code == 1
            assert "database: the database farm on 127.0.0.1" in status.out
            assert "does not answer" in status.out
            assert "Nothing is lost" in status.out
            for arguments in (["list"], ["submit", "another kite"], ["cancel", kept]):
                done = farm(*arguments)
                assert done.err.startswith("error database_unavailable: the database farm on 127.0.0.1"), arguments
                assert "nothing that was accepted is lost" in done.err
            page = httpx.get(served.url, headers={"Accept": "text/html"}, timeout=30)
            assert page.status_code == 503
            assert "does not answer" in page.text
            assert "Nothing is lost" in page.text
        until(lambda: farm("status", "--json").json["checks"]["database"] == "ok")
        assert [job["id"] for job in farm("list", "--json").lines] == [kept]
    finally:
        served.stop()
        served.services.db.close()
