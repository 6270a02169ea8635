"""The worker's beat thread: beats to the node agent, orders back; straight to the database if it is gone."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from farm.cluster.beats import LARGEST, Answer, SentBeat, reply_socket
from farm.cluster.claim import Claim, steady_clock
from farm.cluster.poke import listen, send
from farm.db import leases, workers
from farm.db.engine import Database, open_database
from farm.domain.errors import FarmError
from farm.domain.states import Order
from farm.domain.worker import Beat
from farm.ops.logging import Log
from farm.settings import Settings

_FASTEST = 0.4  # seconds between two beats while progress moves
_SILENT_BEATS = 3  # an agent that left so many unanswered is gone


class Beater:
    """Knows nothing of rendering: `look` says what to report, `leave` hears that the node goes down."""

    def __init__(
        self,
        settings: Settings,
        worker: str,
        look: Callable[[], tuple[Beat, Claim | None]],
        leave: Callable[[bool], None],
        log: Log,
    ) -> None:
        self._settings = settings
        self._look = look
        self._leave = leave
        self._log = log
        self._reply: Path = reply_socket(settings, worker)
        self._heard_at = steady_clock()
        self._direct_at = 0.0
        self._agent_silent = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The last beat says farewell, so that the agent need not wait for more."""
        self._stopping.set()
        if not self._thread.is_alive():
            return  # it never began: nobody knows of this worker
        self._thread.join(timeout=2 * self._settings.beat_every)
        beat, _ = self._look()
        farewell = self._message(replace(beat, state=workers.GONE))
        send(self._settings.agent_socket, farewell.encode())

    def _run(self) -> None:
        with listen(self._reply) as answers:
            try:
                while not self._stopping.is_set():
                    try:
                        self._beat(answers)
                    except Exception as error:  # a beat that fails must not end the beating
                        self._log.error("beat_failed", error)
                        self._stopping.wait(self._settings.beat_every)
            finally:
                self._reply.unlink(missing_ok=True)

    def _beat(self, answers: socket.socket) -> None:
        _, claim = self._look()
        if claim is not None:
            claim.changed.clear()  # before the look that is sent: what moves after it is news again
        beat, claim = self._look()
        message = self._message(beat)
        with contextlib.suppress(OSError):  # no agent, or one too busy to read: seen by its silence
            answers.setblocking(False)
            answers.sendto(message.encode(), str(self._settings.agent_socket))
        self._listen_until_next(answers, claim)
        silent = steady_clock() - self._heard_at > _SILENT_BEATS * self._settings.beat_every
        if silent:
            self._renew_directly(*self._look())
        if silent != self._agent_silent:
            self._agent_silent = silent
            self._log.warning("agent_silent" if silent else "agent_back")

    def _message(self, beat: Beat) -> SentBeat:
        return SentBeat(beat, steady_clock(), self._reply, self._settings.lease_ttl)

    def _listen_until_next(self, answers: socket.socket, claim: Claim | None) -> None:
        """Hears answers until the next beat is due: after a second, or sooner if there is news."""
        began = time.monotonic()
        while not self._stopping.is_set():
            passed = time.monotonic() - began
            news = self._look()[1] is not claim or (claim is not None and claim.changed.is_set())
            if passed >= self._settings.beat_every or (news and passed >= _FASTEST):
                return
            answers.settimeout(min(0.1, self._settings.beat_every / 4))
            with contextlib.suppress(TimeoutError):
                self._hear(answers.recv(LARGEST))

    def _hear(self, data: bytes) -> None:
        answer = Answer.decode(data)
        self._heard_at = steady_clock()
        self._leave(answer.leave)
        _, claim = self._look()
        if claim is not None and (answer.job, answer.epoch) == (claim.assignment.job, claim.assignment.epoch):
            if answer.renewed is not None:
                claim.renewed(answer.renewed)
            claim.heed(answer.order)

    def _renew_directly(self, beat: Beat, claim: Claim | None) -> None:
        """The agent is gone. Its work is done here, at its pace, until it answers again."""
        sent = steady_clock()
        if sent - self._direct_at < self._settings.renew_every:
            return
        self._direct_at = sent
        try:
            renew(self._settings, beat, claim)
        except FarmError as error:
            self._log.warning("direct_renewal_failed", error=error.message)
        else:
            if beat.job is not None:
                self._log.info("renewed_directly", job=beat.job, epoch=beat.epoch)


def renew(settings: Settings, beat: Beat, claim: Claim | None) -> None:
    """One renewal from the worker itself, without the agent. Raises DatabaseUnavailable."""
    db = open_database(settings.database_url)
    try:
        workers.beat(db, [beat])
        if claim is not None and beat.job is not None:
            renew_lease(db, beat, claim, settings.lease_ttl)
    finally:
        db.close()


def renew_lease(db: Database, beat: Beat, claim: Claim, ttl: float) -> None:
    """Renew the claim's lease alone, and heed what comes back. Raises DatabaseUnavailable."""
    sent = steady_clock()
    assignment = claim.assignment
    order = leases.renew(db, [beat], ttl).get((assignment.job, assignment.epoch), Order.LOST)
    if order is not Order.LOST:
        claim.renewed(sent)
    claim.heed(order)
