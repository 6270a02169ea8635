"""`/api/events` on a real socket: what it says, where it resumes, and whom a slow reader hurts."""

import asyncio
import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest

from farm.api import stream as hub_module
from farm.api.stream import Hub, Message, Subscriber
from farm.db import events, jobs
from farm.domain.errors import DatabaseUnavailable
from farm.domain.job import Progress
from farm.domain.request import new_job
from farm.domain.states import StageName
from tests.served.farm import Served
from tests.served.machine import Machine, in_a_loop


@dataclass
class Said:
    kind: str
    data: dict[str, Any]
    cursor: str | None


class Reader:
    """One open stream. `until` reads on until an event is found."""

    def __init__(self, farm: Served, path: str = "/api/events", headers: dict[str, str] | None = None) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", farm.port, timeout=20)
        self.connection.request("GET", path, headers=headers or {})
        self.response = self.connection.getresponse()
        assert self.response.status == 200
        self.lines: list[str] = []
        while (line := self._line()) != "":  # the greeting: from here on nothing is missed
            self.lines.append(line)

    def _line(self) -> str:
        raw = self.response.readline()
        assert raw, "the stream ended"
        line = raw.decode().rstrip("\n")
        return line

    def events(self) -> Iterator[Said]:
        kind, cursor, data = "", None, ""
        while True:
            line = self._line()
            self.lines.append(line)
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                data = value
            elif name == "id":
                cursor = value
            elif not line and kind:
                yield Said(kind, json.loads(data), cursor)
                kind, cursor, data = "", None, ""

    def until(self, wanted: Callable[[Said], bool]) -> Said:
        return next(said for said in self.events() if wanted(said))

    def close(self) -> None:
        self.connection.close()


@pytest.fixture
def reader(served: Served) -> Iterator[Reader]:
    reader = Reader(served)
    yield reader
    reader.close()


def submit(farm: Served, prompt: str = "a red kite") -> str:
    wish = new_job({"prompt": prompt}, farm.services.models)
    return jobs.submit(farm.services.db, [wish])[0].job.id


def of_job(job: str, state: str) -> Callable[[Said], bool]:
    return lambda said: said.kind == "job" and said.data["id"] == job and said.data["state"] == state


def test_the_life_of_a_job_is_told_as_it_happens(served: Served, reader: Reader, machine: Machine) -> None:
    job = submit(served)
    created = reader.until(of_job(job, "queued"))
    assert created.data["job"]["prompt"] == "a red kite"
    assert created.data["counts"]["queued"] == 1
    assert created.cursor == str(events.latest(served.services.db))
    machine.take()
    reader.until(of_job(job, "running"))
    machine.step(5)
    shown = reader.until(lambda said: said.kind == "preview" and said.data["step"] == 5)
    assert shown.data["url"] == f"/api/jobs/{job}/preview?epoch=1&step=5"
    machine.step(8)
    at = reader.until(lambda said: said.kind == "progress" and said.data["k"] == 8)
    assert (at.data["id"], at.data["stage"], at.data["n"], at.cursor) == (job, "denoise", 16, None)
    machine.step(12)
    later = reader.until(lambda said: said.kind == "progress" and said.data["k"] == 12)
    assert later.data["eta"] > 0
    machine.finish()
    done = reader.until(of_job(job, "succeeded"))
    assert done.data["job"]["artifact"]["url"] == f"/api/jobs/{job}/content"
    # A worker's change is told too.
    machine.beat("busy")
    busy = reader.until(lambda said: said.kind == "worker")
    assert busy.data["id"] == "w1"


def test_a_reader_resumes_exactly_after_its_last_event(served: Served, reader: Reader) -> None:
    first = reader.until(of_job(submit(served), "queued"))
    reader.close()
    missed = [submit(served), submit(served)]
    for headers, path in (
        ({"Last-Event-ID": first.cursor or ""}, "/api/events"),
        ({}, f"/api/events?after={first.cursor}"),
        # The header is newer than the address that a browser keeps asking for.
        ({"Last-Event-ID": first.cursor or ""}, "/api/events?after=0"),
    ):
        again = Reader(served, path, headers)
        told = [said.data["id"] for said in islice(again.events(), len(missed))]
        assert told == missed
        again.close()


def test_nothing_is_told_twice_when_the_replay_meets_live_events(served: Served) -> None:
    made = [submit(served) for _ in range(30)]
    again = Reader(served, "/api/events?after=0")
    made += [submit(served) for _ in range(30)]
    seen = []
    for said in again.events():
        if said.kind == "job":
            seen.append(said.data["id"])
            if said.data["id"] == made[-1]:
                break
    assert seen == made
    again.close()


def test_a_cursor_of_another_time_is_answered_with_reset(served: Served) -> None:
    submit(served)
    stale = Reader(served, "/api/events?after=999999")
    reset = stale.until(lambda said: said.kind == "reset")
    assert reset.cursor == str(events.latest(served.services.db))
    # And the stream goes on from there.
    stale.until(of_job(submit(served), "queued"))
    stale.close()


def test_silence_is_broken_by_comments(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "HEARTBEAT", 0.05)
    quiet = Reader(served)
    while not any(line.startswith(": still here") for line in quiet.lines):
        quiet.lines.append(quiet._line())
    quiet.close()


def test_stopping_the_server_ends_the_streams_at_once(served: Served) -> None:
    held_open = Reader(served)
    served.services.stopping.set()
    # Stopping is noticed in the loop of the server: wake it.
    served.stop()
    assert held_open.response.read() == b""
    held_open.close()
    served.start()


def test_progress_is_told_at_most_twice_a_second_and_the_newest_wins(served: Served) -> None:
    now = [100.0]
    hub = Hub(served.services.db, asyncio.Event(), clock=lambda: now[0])
    said = []
    for k in range(1, 17):
        said += hub._progress({"job_x": Progress(StageName.DENOISE, k, 16)})
        now[0] += 0.125
    assert [message.data["k"] for message in said] == [1, 5, 9, 13]


def test_a_preview_of_a_job_that_was_just_deleted_is_no_outage(served: Served) -> None:
    hub = Hub(served.services.db, asyncio.Event())
    said = hub._progress({"job_gone": Progress(StageName.DENOISE, 5, 16, preview_step=4)})
    assert [message.kind for message in said] == ["progress"]


def test_a_look_that_fails_half_way_is_told_at_the_next(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    db = served.services.db
    hub = Hub(db, asyncio.Event())
    hub._cursor = events.latest(db)
    hub._subscribers.add(Subscriber(seen=0))
    job = submit(served)
    away = DatabaseUnavailable("it went between two questions")

    def fail(_: object) -> None:
        raise away

    with monkeypatch.context() as patched:
        patched.setattr(hub_module.jobs, "counts", fail)
        with pytest.raises(DatabaseUnavailable):
            hub._poll()
    assert job in [message.data["id"] for message in hub._poll() if message.kind == "job"]


def test_a_reader_that_does_not_read_is_cut_off_and_the_others_go_on() -> None:
    slow, quick = Subscriber(seen=0), Subscriber(seen=0)
    for cursor in range(1, hub_module.BUFFER + 10):
        for reader in (slow, quick):
            reader.put(Message("job", {}, cursor))
        assert quick.take() is not None
    assert slow.overflowed
    assert not quick.overflowed
    taken = []
    while message := slow.take():
        taken.append(message.cursor)
    # What it got is without a gap, so its last cursor is where it resumes.
    assert taken == list(range(1, hub_module.BUFFER + 1))


def test_a_newcomer_is_told_where_jobs_are_and_nothing_of_the_past(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "HEARTBEAT", 0.01)
    now = [100.0]
    hub = Hub(served.services.db, asyncio.Event(), clock=lambda: now[0])
    at = {"job_x": Progress(StageName.DENOISE, 5, 16)}
    assert len(hub._progress(at)) == 1  # to readers who have left since

    async def come() -> list[bytes]:
        stream = hub.stream(None)
        heard = [await anext(stream), await anext(stream)]
        await stream.aclose()  # type: ignore[attr-defined]
        return heard

    assert in_a_loop(come())[1] == b": still here\n\n"
    now[0] += 1
    assert [message.data["k"] for message in hub._progress(at)] == [5]
