"""The node agent: one process per machine that hears its workers' beats and renews their leases in one call.

Run as `python -m farm.cluster.agent`. On SIGTERM it tells the workers to give their jobs back and to end.
"""

import contextlib
import signal
import socket
import threading
import time
import uuid
from dataclasses import dataclass, replace
from typing import Any

from farm.cluster.beats import LARGEST, Answer, SentBeat
from farm.cluster.poke import POKE, listen, send
from farm.db import jobs, leases, nodes, pokes, workers
from farm.db.engine import Database, open_database
from farm.db.workers import GONE
from farm.domain.errors import FarmError, JobNotFound
from farm.domain.states import Order
from farm.domain.worker import Beat
from farm.ops.logging import Log, start_log
from farm.settings import Settings, load_settings

_FRESH = 5.0  # seconds: an older beat says nothing about now, so it renews nothing
_LOOK_EVERY = 1.0  # seconds between two looks for a wish to cancel
_FASTEST = 0.3  # seconds between two renewals, however fast progress moves
_DRAIN_PATIENCE = 10.0  # seconds that workers get to give their jobs back and to end


@dataclass
class _Heard:
    """The newest beat of one worker, and what the database said last about its claim."""

    message: SentBeat
    at: float
    order: Order = Order.CONTINUE
    renewed: float | None = None

    @property
    def key(self) -> tuple[str | None, int]:
        return self.message.beat.job, self.message.beat.epoch

    @property
    def fresh(self) -> bool:
        return time.monotonic() - self.at < min(_FRESH, self.message.lease_ttl / 3)


def _news(beat: Beat) -> Beat:
    """What people wait to see of it: memory and load always move."""
    return replace(beat, memory=None, load=None)


class Agent:
    """Two threads: one answers every beat at once, the other talks to the database and may wait for it."""

    def __init__(self, settings: Settings, db: Database, log: Log) -> None:
        self._settings = settings
        self._db = db
        self._log = log
        self._heard: dict[str, _Heard] = {}
        self._lock = threading.Lock()
        self._due = threading.Event()  # a poke came, or something changed that people wait to see
        self._boot = uuid.uuid4().hex
        self._said_at = float("-inf")
        self._poked = False
        self._leaving = False
        self._stopped = threading.Event()

    def run(self) -> None:
        """Until `stop`. Binds the agent's socket."""
        with listen(self._settings.agent_socket) as inbox:
            ears = threading.Thread(target=self._listen, args=(inbox,), name="ears", daemon=True)
            ears.start()
            far = (self._db, self._poke, self._stopped)
            threading.Thread(target=pokes.listen, args=far, name="far ears", daemon=True).start()
            self._log.info("agent_ready")
            self._talk()
            # Woken by its own poke, the listening thread sees that it is over.
            send(self._settings.agent_socket, POKE)
            ears.join(timeout=5)
        self._settings.agent_socket.unlink(missing_ok=True)

    def leave(self) -> None:
        """The node goes down: every answer from now on says so."""
        self._leaving = True
        self._due.set()

    # -- hearing -------------------------------------------------------------------------------------

    def _listen(self, inbox: socket.socket) -> None:
        while not self._stopped.is_set():
            data = inbox.recv(LARGEST)
            if data == POKE:
                self._poke()
                continue
            try:
                message = SentBeat.decode(data)
            except (ValueError, KeyError, TypeError) as error:
                self._log.warning("not_a_beat", error=str(error))
                continue
            self._answer(self._hear(message))

    def _poke(self) -> None:
        self._poked = True
        self._due.set()

    def _hear(self, message: SentBeat) -> _Heard:
        with self._lock:
            if message.beat.state == GONE:
                self._heard.pop(message.beat.worker, None)
                self._due.set()
                return _Heard(message, 0.0)
            before = self._heard.get(message.beat.worker)
            heard = _Heard(message, time.monotonic())
            if before is not None and before.key == heard.key:
                heard.order, heard.renewed = before.order, before.renewed
            self._heard[message.beat.worker] = heard
        if before is None or _news(before.message.beat) != _news(message.beat):
            self._due.set()  # news: progress, another job, another state
        return heard

    def _answer(self, heard: _Heard) -> None:
        job, epoch = heard.key
        answer = Answer(job, epoch, heard.order, heard.renewed, self._leaving)
        send(heard.message.reply, answer.encode())

    # -- the database --------------------------------------------------------------------------------

    def _talk(self) -> None:
        renewed_at = 0.0
        leaving_since: float | None = None
        while True:
            news = self._due.wait(_LOOK_EVERY)
            self._due.clear()
            poked, self._poked = self._poked, False
            try:
                if news or time.monotonic() - renewed_at >= self._renew_every():
                    renewed_at = time.monotonic()
                    self._renew()
                    self._say_alive()
                elif self._somebody_cancelled():
                    self._renew()
            except FarmError as error:  # the workers' own fences hold while the database is away
                self._log.warning("renewal_failed", error=error.message, poked=poked)
            except Exception as error:
                self._log.error("renewal_failed", error)
            if self._leaving:
                leaving_since = leaving_since or time.monotonic()
                if not self._staffed() or time.monotonic() - leaving_since > _DRAIN_PATIENCE:
                    self._log.info("agent_leaves", staffed=self._staffed())
                    self._stopped.set()
                    return
            # Progress may move many times a second; nobody needs to see it so often.
            time.sleep(_FASTEST)

    def _renew(self) -> None:
        with self._lock:
            self._forget_silent()
            fresh = [h for h in self._heard.values() if h.fresh]
        if not fresh:
            return
        beats = [heard.message.beat for heard in fresh]
        workers.beat(self._db, beats)
        working = [heard for heard in fresh if heard.message.beat.job is not None]
        if not working:
            return
        for ttl in {heard.message.lease_ttl for heard in working}:  # one, but while the farm's is being changed
            alike = [heard for heard in working if heard.message.lease_ttl == ttl]
            orders = leases.renew(self._db, [h.message.beat for h in alike], ttl)
            for heard in alike:
                self._bring(heard, orders[heard.message.beat.job or "", heard.message.beat.epoch])

    def _say_alive(self) -> None:
        """Where a worker falls silent, this tells whether it went alone. In every round, but not at every step."""
        if time.monotonic() - self._said_at >= self._renew_every():
            self._said_at = time.monotonic()
            nodes.beat(self._db, self._settings.node_name, self._boot)

    def _renew_every(self) -> float:
        """Often enough for the shortest lease that a worker here counts on."""
        with self._lock:
            shortest = min((h.message.lease_ttl for h in self._heard.values()), default=self._settings.lease_ttl)
        return min(self._settings.renew_every, shortest / 3)

    def _bring(self, renewed: _Heard, order: Order) -> None:
        """What the database said goes to the worker now, not with the answer to its next beat."""
        with self._lock:
            heard = self._heard.get(renewed.message.beat.worker)
            if heard is None or heard.key != renewed.key:
                return
            if order is not heard.order:
                self._log.info("order", job=heard.key[0], epoch=heard.key[1], order=order)
            heard.order = order
            if order is not Order.LOST:
                heard.renewed = renewed.message.sent
        self._answer(heard)

    def _somebody_cancelled(self) -> bool:
        """A read, so that looking every second costs little."""
        with self._lock:
            waiting = [h.key[0] for h in self._heard.values() if h.order is Order.CONTINUE]
        for job in waiting:
            if job is not None:
                with contextlib.suppress(JobNotFound):
                    if jobs.get(self._db, job).cancel_requested_at is not None:
                        return True
        return False

    def _forget_silent(self) -> None:
        now = time.monotonic()
        for worker in [w for w, h in self._heard.items() if now - h.at > 4 * h.message.lease_ttl]:
            del self._heard[worker]

    def _staffed(self) -> bool:
        """Whether a worker is still there; each says farewell when it ends."""
        with self._lock:
            return any(heard.fresh for heard in self._heard.values())


def main() -> None:
    settings = load_settings()
    log = start_log("agent", settings.log_dir, settings.log_level)
    agent = Agent(settings, open_database(settings.database_url), log)

    def leave(*_: Any) -> None:
        # A flag only: a handler must not take locks that the interrupted thread may hold.
        threading.Thread(target=agent.leave, daemon=True).start()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    agent.run()


if __name__ == "__main__":
    main()
