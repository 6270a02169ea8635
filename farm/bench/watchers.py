"""`python -m farm.bench.watchers`: a hundred watchers of the event stream while jobs change.

A real API server in a process of its own; most watchers read on, some hang up again and again and resume, some
stop reading for the whole load and go on afterwards. Each of them must hear how every job ended. Two minutes: with
1,600 jobs those that stall have been cut off and must resume.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass, field
from pathlib import Path

from farm.bench.throwaway import MODEL, until
from farm.db import jobs, leases, workers
from farm.db.engine import Database, migrate, open_database
from farm.domain.job import Artifact, JobError, JobSpec, NewJob, Progress
from farm.domain.states import FINAL, Outcome, StageName
from farm.domain.worker import Beat, NewWorker
from farm.settings import Settings, load_settings

_LANE = f"local/default/interactive/{MODEL}"
_GOAL_MEMORY = 128 * 2**20  # bytes that a hundred watchers may cost the server at its worst
_STEPS = 4
_PACE = 0.01  # seconds between two changes of the load
_PROMPT = (
    "a red kite over dunes at dusk, seen from below, slowly turning in the wind 一只风筝 " * 10
)  # as long as real ones
_RESUME_EVERY = 40  # messages after which one that hangs up does so


@dataclass
class Watcher:
    """One reader of the stream, which resumes where it was. `ends`: how it heard that each job ended, and when."""

    port: int
    kind: str  # steady | hangs up | stalls
    ends: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])
    cursor: str | None = None
    opened: int = 0
    messages: int = 0
    resets: int = 0

    async def watch(self, ready: asyncio.Semaphore, load_over: asyncio.Event) -> None:
        while True:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._connection(ready, load_over)
            await asyncio.sleep(0.05)

    async def _connection(self, ready: asyncio.Semaphore, load_over: asyncio.Event) -> None:
        # A small window: that a reader stalls is soon felt by the server, and not only by the network.
        window = socket.socket()
        window.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        window.setblocking(False)
        await asyncio.get_running_loop().sock_connect(window, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=window)
        resume = f"Last-Event-ID: {self.cursor}\r\n" if self.cursor else ""
        writer.write(f"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n{resume}\r\n".encode())
        self.opened += 1
        heard = 0
        try:
            async for kind, data in _events(reader, self):
                if kind == "welcome":
                    if self.opened == 1:
                        ready.release()
                    if self.kind == "stalls" and not load_over.is_set():
                        await load_over.wait()
                    continue
                heard += 1
                self._take(kind, data)
                if self.kind == "hangs up" and heard >= _RESUME_EVERY and not load_over.is_set():
                    return
        finally:
            writer.close()

    def _take(self, kind: str, data: bytes) -> None:
        self.messages += 1
        self.resets += kind == "reset"
        if kind == "job":
            said = json.loads(data)
            if said.get("state") in FINAL:
                self.ends[said["id"]] = (said["state"], time.monotonic())


async def _events(reader: asyncio.StreamReader, watcher: Watcher) -> AsyncIterator[tuple[str, bytes]]:
    kind, data, cursor = "", b"", None
    while line := await reader.readline():
        name, _, value = line.rstrip(b"\r\n").partition(b": ")
        if name == b"event":
            kind = value.decode()
        elif name == b"data":
            data = value
        elif name == b"id":
            cursor = value.decode()
        elif line == b": welcome\n":
            kind = "welcome"
        elif line == b"\n" and kind:
            watcher.cursor = cursor or watcher.cursor
            yield kind, data
            kind, data, cursor = "", b"", None


@dataclass
class Load:
    """Plays the workers: real leases, real transitions, no frames. `ended`: when each job's end was durable."""

    db: Database
    ended: dict[str, float] = field(default_factory=dict[str, float])

    def run(self, count: int) -> None:
        workers.register(self.db, NewWorker("w1", "bench", "cpu:bench:0", "CPU", os.getpid()))
        for number in range(count):
            spec = JobSpec("t2v", MODEL, "digest", f"{number} {_PROMPT}", 96, 96, 17, 12, _STEPS, number, 3.0)
            made = jobs.submit(self.db, [NewJob(spec)])[0].job
            if number % 3:
                jobs.cancel(self.db, made.id)
            else:
                self._render(number)
            self.ended[made.id] = time.monotonic()

    def _render(self, number: int) -> None:
        given = leases.claim(self.db, "w1", _LANE)
        assert given is not None
        leases.start(self.db, given.job, given.epoch)
        for step in range(1, _STEPS + 1):
            at = Progress(StageName.DENOISE, step, _STEPS, step, "w1")
            leases.renew(self.db, [Beat("w1", given.job, given.epoch, at, ("digest",), "busy", 10**9, number)])
            time.sleep(_PACE)
        if number % 5 == 1:
            error = JobError("bench", "it was to fail", "nothing")
            leases.fail(self.db, given.job, given.epoch, Outcome.USER_ERROR, error)
            return
        key = f"{given.prefix}/video.mp4"
        video = Artifact(key, "ab" * 32, 12345, 17, 17 / 12, f"{given.prefix}/poster.jpg")
        leases.finish(self.db, given.job, given.epoch, video, {"denoise": 0.1})


@dataclass
class Server:
    """`python -m farm.api.server` on a port of its own, and what it has cost."""

    process: "subprocess.Popen[bytes]"
    port: int
    peak: int = 0

    @property
    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        now = pages * os.sysconf("SC_PAGE_SIZE")
        self.peak = max(self.peak, now)
        return now

    @property
    def cpu(self) -> float:
        """Seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _served(settings: Settings) -> Generator[Server]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FARM_")}
    with (settings.log_dir / "api.out").open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "farm.api.server"], env={**clean, **settings.environment()},
            stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        until("the API server listens", lambda: _listens(settings.port))
        yield Server(process, settings.port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


async def _measure(server: Server, load: Load, count: int, kinds: list[str]) -> tuple[list[Watcher], int, float]:
    """The watchers, the server's memory with all of them and nothing to tell, and its CPU seconds for the load."""
    watchers = [Watcher(server.port, kind) for kind in kinds]
    ready, load_over = asyncio.Semaphore(0), asyncio.Event()
    tasks = [asyncio.create_task(one.watch(ready, load_over)) for one in watchers]
    for _ in watchers:
        await ready.acquire()
    idle, cpu = server.memory, server.cpu
    running = asyncio.create_task(asyncio.to_thread(load.run, count))
    while not running.done():
        _ = server.memory
        await asyncio.sleep(0.1)
    await running
    load_over.set()
    deadline = time.monotonic() + 60
    while any(len(one.ends) < count for one in watchers) and time.monotonic() < deadline:
        _ = server.memory
        await asyncio.sleep(0.1)
    spent = server.cpu - cpu
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return watchers, idle, spent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watchers", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1600)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="farm-watchers-") as folder:
        settings = load_settings(home=Path(folder), port=_free_port())
        settings.make_folders()
        migrate(settings.database_url)
        db = open_database(settings.database_url)
        load = Load(db)
        few = {3: "hangs up", 7: "stalls"}
        kinds = [few.get(number % 10, "steady") for number in range(chosen.watchers)]
        with _served(settings) as server:
            before = server.memory
            began = time.monotonic()
            watchers, idle, cpu = asyncio.run(_measure(server, load, chosen.jobs, kinds))
            took = time.monotonic() - began
            until("the server has let go of them", lambda: _connections(server.process.pid) <= 1)
            after = server.memory
        states = {job: state for job, state in _final_states(db).items() if job in load.ended}
        db.close()
    return _report(watchers, states, load, took, cpu, (before, idle, server.peak, after))


def _report(
    watchers: list[Watcher],
    states: dict[str, str],
    load: Load,
    took: float,
    cpu: float,
    memory: tuple[int, int, int, int],
) -> int:
    lost = wrong = 0
    for one in watchers:
        lost += len(set(states) - set(one.ends))
        wrong += sum(states[job] != state for job, (state, _) in one.ends.items())
    before, idle, peak, after = (value / 2**20 for value in memory)
    delays = sorted(
        at - load.ended[job] for one in watchers if one.kind == "steady" for job, (_, at) in one.ends.items()
    )
    for kind in ("steady", "hangs up", "stalls"):
        mine = [one for one in watchers if one.kind == kind]
        opened, heard = sum(one.opened for one in mine), sum(one.messages for one in mine)
        print(f"{len(mine):4} {kind:9} {opened:6} connections {heard:8} messages")
    print(
        f"{len(states):4} jobs ended in {took:.1f} s, on {os.cpu_count()} cores; the server used {cpu:.1f} s of CPU"
    )
    print(f"told after  {statistics.median(delays):.2f} s (median), {delays[len(delays) * 99 // 100]:.2f} s (99 %)")
    print(
        f"memory      {before:.0f} MiB alone, {idle:.0f} with all watchers, {peak:.0f} at most, {after:.0f} after"
    )
    grown = memory[2] - memory[0]
    good = not lost and not wrong and grown <= _GOAL_MEMORY
    print(f"{'ok  ' if not lost and not wrong else 'MISS'}  {lost} final events lost, {wrong} wrong")
    print(f"{'ok  ' if grown <= _GOAL_MEMORY else 'MISS'}  {grown / 2**20:.0f} MiB, goal {_GOAL_MEMORY >> 20}")
    return 0 if good else 1


def _final_states(db: Database) -> dict[str, str]:
    found: dict[str, str] = {}
    after: str | None = None
    while True:
        page, after = jobs.find(db, states=list(FINAL), limit=500, after=after)
        found |= {job.id: job.state.value for job in page}
        if after is None:
            return found


def _connections(pid: int) -> int:
    """Sockets that the process still has open, without the pair that its event loop wakes itself with."""
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if os.path.lexists(link)]
    return sum(link.startswith("socket:") for link in links) - 2


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
