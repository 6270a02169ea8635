"""The event hub: one poller of the database feeds every open stream; a slow reader costs only itself."""

import asyncio
import contextlib
import functools
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from farm.api.outage import outage
from farm.api.present import job_json, preview_url, stage_percent
from farm.db import events, jobs, progress
from farm.db.engine import Database
from farm.domain.errors import FarmError, JobNotFound
from farm.domain.job import Event, Progress

log = logging.getLogger("farm.api.stream")
P = ParamSpec("P")
T = TypeVar("T")

POLL = 0.25  # seconds between looks at the database while somebody listens
IDLE_POLL = 2.0  # and while nobody does
HEARTBEAT = 15.0  # seconds of silence after which a comment is sent
STORE_POLL = 2.0  # seconds between two questions whether the store is there
PER_JOB = 0.5  # seconds between two progress messages of one job
BUFFER = 1000  # messages a reader may lag behind before it must reconnect


@dataclass(frozen=True)
class Message:
    """One server-sent event. Only outbox rows have a cursor: progress is not resumable, only current."""

    kind: str
    data: dict[str, Any]
    cursor: int | None = None

    def encode(self) -> bytes:
        """The same bytes for every reader: they are made once."""
        return self._encoded

    @functools.cached_property
    def _encoded(self) -> bytes:
        head = "" if self.cursor is None else f"id: {self.cursor}\n"
        body = json.dumps(self.data, ensure_ascii=False, separators=(",", ":"))
        return f"{head}event: {self.kind}\ndata: {body}\n\n".encode()


@dataclass(eq=False)
class Subscriber:
    """A bounded buffer. When it overflows the stream ends, and the reader resumes at its last cursor."""

    seen: int  # the last cursor that was delivered
    waiting: deque[Message] = field(default_factory=deque[Message])
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    overflowed: bool = False

    def put(self, message: Message) -> None:
        if len(self.waiting) >= BUFFER:
            self.overflowed = True
        else:
            self.waiting.append(message)
        self.ready.set()

    def take(self) -> Message | None:
        """The next message that the replay has not delivered already."""
        while self.waiting:
            message = self.waiting.popleft()
            if message.cursor is None:
                return message
            if message.cursor > self.seen:
                self.seen = message.cursor
                return message
        return None


@dataclass
class _Pace:
    """What was last said about a job, and when: for coalescing and for the estimate."""

    said: Progress | None = None
    said_at: float = -1e9
    preview: int | None = None
    first_step: tuple[int, float] | None = None


class Hub:
    """Start it with `run()` in the server's event loop; `stream()` is one reader's view."""

    def __init__(
        self,
        db: Database,
        stopping: asyncio.Event,
        clock: Callable[[], float] = time.monotonic,
        store_trouble: Callable[[], FarmError | None] = lambda: None,
    ) -> None:
        """`store_trouble`: what is wrong with the store; None where nothing is."""
        self._db = db
        self._store_trouble = store_trouble
        self._store: FarmError | None = None
        self._store_at = -1e9
        self._away: dict[str, Any] = outage(None, None)
        self._clock = clock
        self._stopping = stopping
        self._subscribers: set[Subscriber] = set()
        self._wanted = asyncio.Event()
        self._cursor = 0
        self._paces: dict[str, _Pace] = {}

    async def run(self) -> None:
        """Polls until cancelled: often while somebody listens, else just enough to stay near the end."""
        self._cursor = await asyncio.to_thread(_patient_latest, self._db)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), IDLE_POLL)
            trouble: FarmError | None = None
            try:
                self._publish(await asyncio.to_thread(self._poll))
            except FarmError as error:  # the database is away: streams stay open and go on when it is back
                trouble = error
                log.warning("event poll failed", extra={"code": error.code, "message_": error.message})
            if self._subscribers:
                await asyncio.to_thread(self._ask_store)
            self._tell_outage(outage(trouble, self._store))
            await asyncio.sleep(POLL)

    def _publish(self, messages: list[Message]) -> None:
        for message in messages:
            for subscriber in self._subscribers:
                subscriber.put(message)

    def _ask_store(self) -> None:
        if self._clock() - self._store_at >= STORE_POLL:
            self._store = self._store_trouble()
            self._store_at = self._clock()

    def _tell_outage(self, away: dict[str, Any]) -> None:
        """When something goes away, and when it is back."""
        if away != self._away:
            self._away = away
            self._publish([self._outage()])

    def _outage(self) -> Message:
        return Message("health", {"id": "farm", **self._away})

    async def stream(self, after: int | None) -> AsyncIterator[bytes]:
        """Everything from the cursor `after` on (None: from now on), forever, also while the database is away."""
        newest = after
        if newest is None:
            try:
                newest = await asyncio.to_thread(events.latest, self._db)
            except FarmError as error:
                away = Message("health", {"id": "farm", **outage(error, self._store)})
                yield b"retry: 1000\n\n" + away.encode()
                newest = await self._once_back(events.latest, self._db)
                if newest is None:
                    return
                yield Message("health", {"id": "farm", **outage(None, self._store)}).encode()
        subscriber = Subscriber(seen=newest)
        try:
            self._join(subscriber)
            # Also the first sign of life: proxies and browsers wait for a first byte.
            yield f"retry: 1000\nid: {subscriber.seen}\n: welcome\n\n".encode()
            if self._away["says"]:  # else all is there, and a reader takes it so
                yield self._outage().encode()
            if after is not None:
                async for message in self._replay(after, subscriber):
                    yield message.encode()
            while not self._stopping.is_set() and not (subscriber.overflowed and not subscriber.waiting):
                if not subscriber.waiting and not await self._something(subscriber):
                    yield b": still here\n\n"
                while message := subscriber.take():
                    yield message.encode()
        finally:
            self._leave(subscriber)

    def _join(self, subscriber: Subscriber) -> None:
        self._subscribers.add(subscriber)
        # The next look tells a newcomer where the running jobs are. What was said to earlier readers may be
        # long past: while nobody listens nobody looks.
        for pace in list(self._paces.values()):
            pace.said, pace.preview = None, None
        self._wanted.set()

    def _leave(self, subscriber: Subscriber) -> None:
        self._subscribers.discard(subscriber)
        if not self._subscribers:
            self._wanted.clear()

    async def _something(self, subscriber: Subscriber) -> bool:
        subscriber.ready.clear()
        ready = asyncio.ensure_future(subscriber.ready.wait())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            done, _ = await asyncio.wait({ready, stopping}, timeout=HEARTBEAT, return_when=asyncio.FIRST_COMPLETED)
            return bool(done)
        finally:
            ready.cancel()
            stopping.cancel()

    async def _replay(self, after: int, subscriber: Subscriber) -> AsyncIterator[Message]:
        """Rows between the reader's cursor and the poller's; live ones queue up meanwhile."""
        while True:
            read = await self._once_back(events.read, self._db, after)
            if read is None:
                return
            rows, reset = read
            if reset:
                subscriber.seen = await self._once_back(events.latest, self._db) or 0
                yield Message("reset", {}, subscriber.seen)
                return
            if not rows:
                return
            for message in await self._once_back(self._tell, rows) or []:
                yield message
            after = rows[-1].id
            subscriber.seen = after

    async def _once_back(self, ask: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What the database says, as soon as it is there; None: this server ends before."""
        while not self._stopping.is_set():
            try:
                return await asyncio.to_thread(ask, *args, **kwargs)
            except FarmError:
                await asyncio.sleep(POLL)
        return None

    def _poll(self) -> list[Message]:
        """One look: what the outbox gained, and where the running jobs are."""
        rows, reset = events.read(self._db, self._cursor)
        if reset:
            self._cursor = events.latest(self._db)
            return [Message("reset", {}, self._cursor)]
        said: list[Message] = []
        if self._subscribers:
            said = self._tell(rows) + self._progress(progress.progress(self._db))
        if rows:
            self._cursor = rows[-1].id  # not before: what fails half way is told at the next look
        return said

    def _tell(self, rows: list[Event]) -> list[Message]:
        """Outbox rows as messages. The last one of a job carries its whole face, the very last the counts."""
        newest = {row.subject: row.id for row in rows if row.kind == "job"}
        messages: list[Message] = []
        for row in rows:
            data: dict[str, Any] = {"id": row.subject, **row.data}
            if newest.get(row.subject) == row.id:
                with contextlib.suppress(JobNotFound):  # hidden meanwhile
                    data["job"] = job_json(jobs.get(self._db, row.subject))
            messages.append(Message(row.kind, data, row.id))
        if newest:
            counts = {state.value: n for state, n in jobs.counts(self._db).items()}
            last = max(i for i, message in enumerate(messages) if message.kind == "job")
            messages[last].data["counts"] = counts
        return messages

    def _progress(self, now: dict[str, Progress]) -> list[Message]:
        for gone in set(self._paces) - set(now):
            del self._paces[gone]
        messages: list[Message] = []
        for job, at in now.items():
            pace = self._paces.setdefault(job, _Pace())
            moment = self._clock()
            if at.stage == "denoise" and (pace.first_step is None or at.k < pace.first_step[0]):
                pace.first_step = (at.k, moment)
            if at != pace.said and moment - pace.said_at >= PER_JOB:
                pace.said, pace.said_at = at, moment
                messages.append(Message("progress", {"id": job, **self._where(at, pace, moment)}))
            if at.preview_step is not None and at.preview_step != pace.preview:
                pace.preview = at.preview_step
                with contextlib.suppress(JobNotFound):  # hidden, and about to be cancelled
                    messages.append(Message("preview", self._picture(job, at.preview_step)))
        return messages

    def _where(self, at: Progress, pace: _Pace, moment: float) -> dict[str, Any]:
        eta = None
        if at.stage == "denoise" and pace.first_step is not None and at.k > pace.first_step[0]:
            k, since = pace.first_step
            eta = round((moment - since) / (at.k - k) * (at.n - at.k), 1)
        return {
            "stage": at.stage.value,
            "k": at.k,
            "n": at.n,
            "eta": eta,
            "percent": stage_percent(at),
            "worker": at.worker,
        }

    def _picture(self, job: str, step: int) -> dict[str, Any]:
        epoch = jobs.get(self._db, job).epoch
        return {"id": job, "step": step, "url": preview_url(job, epoch, step)}


def _patient_latest(db: Database) -> int:
    """The cursor to start from. A server may start before its database answers."""
    while True:
        try:
            return events.latest(db)
        except FarmError as error:
            log.warning("event poll cannot start", extra={"code": error.code})
            time.sleep(1)
