"""The dispatcher: the only driver of Ray. It keeps a worker on every slot and hands queued jobs to idle ones.

Run as `python -m farm.cluster.dispatcher`. It may die at any moment: what it knows can be read again from Ray
and the database, and jobs that run do not need it.
"""

import contextlib
import signal
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from farm.cluster.actors import Actors
from farm.cluster.claim import steady_clock
from farm.cluster.deaths import bury_forgotten
from farm.cluster.poke import listen, send
from farm.cluster.policies import stall_limits
from farm.cluster.post import Bar, Post
from farm.cluster.slots import Slot
from farm.cluster.sweeper import Sweeper
from farm.db import events, lanes, leases, nodes, pokes, quarantines, workers
from farm.db.engine import Database, open_database
from farm.domain.errors import FarmError, TransactionConflict
from farm.domain.states import Wish
from farm.domain.worker import Quarantine, Worker
from farm.ops.logging import Log, start_log
from farm.scheduling.answering import Answering
from farm.scheduling.lanes import LaneView, next_lane
from farm.settings import Settings, load_settings

_POLL = 1.0  # seconds between two looks when nobody pokes
_SELDOM = 5.0  # seconds between two looks for what is rare and in no hurry
_PRUNE_EVERY = 3600.0  # seconds between two prunings of the outbox, which is kept for days
_STOP = b"stop"


class Dispatcher:
    """`run` is the loop; a look is: who died, who is idle, what is next, whose lease has run out."""

    def __init__(self, settings: Settings, db: Database, actors: Actors, log: Log) -> None:
        self._settings = settings
        self._db = db
        self._actors = actors
        self._log = log
        self._posts: dict[str, Post] = {}
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._answering = Answering(settings.lease_ttl, steady_clock)
        self._prune_at = self._seldom_at = 0.0

    def run(self) -> None:
        """Until `stop`. Its socket is bound once Ray and the database have answered: that is "ready"."""
        self._look_on()
        with listen(self._settings.dispatcher_socket) as inbox:
            threading.Thread(target=self._hear, args=(inbox,), name="ears", daemon=True).start()
            far = (self._db, self._wake.set, self._stopping)
            threading.Thread(target=pokes.listen, args=far, name="far ears", daemon=True).start()
            self._log.info("dispatcher_ready", slots=list(self._posts))
            while not self._stopping.is_set():
                self._wake.wait(_POLL)
                self._wake.clear()
                try:
                    self._look_on()
                except FarmError as error:  # the database is away; Ray's faults end this process instead
                    self._answering.failed()
                    self._log.warning("database_away", error=error.message)
        self._settings.dispatcher_socket.unlink(missing_ok=True)

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    def _look_on(self) -> None:
        """A round, and at once another where a transaction of others was in the way: the database is there."""
        try:
            self.look()
        except TransactionConflict as error:
            self._log.debug("round_again", error=error.message)
            self._wake.set()

    def look(self) -> None:
        """One round. Raises FarmError while the database is away."""
        self._keep_posts()
        leases.due(self._db)
        if bury_forgotten(self._settings, self._db, self._log):
            self._wake.set()
        self._claim()
        self._reap()
        if steady_clock() >= self._seldom_at:
            self._seldom_at = steady_clock() + _SELDOM
            self._end_hung()
            self._take_back_fulfilled_wishes()
        if steady_clock() >= self._prune_at:
            self._prune_at = steady_clock() + _PRUNE_EVERY
            events.prune(self._db)

    def _keep_posts(self) -> None:
        """A post for every slot of a living node. One whose node has gone stays until its dead are buried."""
        present = {slot.resource: slot for slot in self._actors.slots()}
        bars = bars_of(quarantines.find(self._db), datetime.now(UTC))
        for resource, slot in present.items():
            if resource not in self._posts:
                self._posts[resource] = self._new_post(slot)
                self._log.info("slot_joined", slot=resource)
        for resource, post in list(self._posts.items()):
            post.look(node_lives=resource in present, bar=bars.get(post.gpu, Bar.NONE))
            if resource not in present and post.vacant:
                del self._posts[resource]
                self._log.info("slot_left", slot=resource)

    def _new_post(self, slot: Slot) -> Post:
        return Post(slot, self._settings, self._actors, self._db, self._wake.set, self._log)

    def _claim(self) -> None:
        idle = [post for post in self._posts.values() if post.idle]
        if not idle:
            return
        known = {worker.id: worker for worker in workers.find(self._db, gone_within=0.0)}
        for post in idle:
            worker = known.get(post.worker_id or "")
            if worker is not None:
                self._claim_for(post, worker)

    def _claim_for(self, post: Post, worker: Worker) -> None:
        if restart_due(worker):
            post.replace("somebody wished it to restart")
            return
        choice = next_lane(lanes.lanes(self._db, worker.id), worker, datetime.now(UTC))
        if not isinstance(choice, LaneView):
            return
        assignment = leases.claim(
            self._db, worker.id, choice.id, ttl=self._settings.lease_ttl, models=worker.models
        )
        if assignment is not None:
            self._log.info("claimed", job=assignment.job, epoch=assignment.epoch, worker=worker.id)
            post.give(assignment)

    def _end_hung(self) -> None:
        """Of those whose own watchdog has not done it. What is killed here is told as lost when it is seen dead."""
        for one in leases.stalled(self._db, stall_limits(self._settings)):
            post = next((post for post in self._posts.values() if post.worker_id == one.worker), None)
            if post is not None and one.seconds > one.allowed + self._settings.lease_ttl:
                post.end_hung(one.cause)

    def _take_back_fulfilled_wishes(self) -> None:
        """A node is to restart its workers once, and not whoever comes after them as well."""
        wished = [node for node in nodes.find(self._db) if node.wish is Wish.RESTART]
        for node in wished:
            here = [w for w in workers.find(self._db, gone_within=0.0) if w.node == node.node]
            if here and node.wish_at is not None and all(w.started_at > node.wish_at for w in here):
                nodes.restarted(self._db, node)

    def _reap(self) -> None:
        if not self._answering.answered():
            return
        for job, epoch, state in leases.reap(self._db, self._settings.crash_cap):
            self._log.warning("lease_expired", job=job, epoch=epoch, now=state)
            self._wake.set()  # a job is back in the queue
        for worker in workers.sweep(self._db, older_than=self._settings.lease_ttl):
            self._log.warning("worker_silent", worker=worker)
        for post in self._posts.values():
            # Its jobs are gone to others. What may thaw must not sit on the device for ever.
            post.end_if_silent(2 * self._settings.lease_ttl)

    def _hear(self, inbox: Any) -> None:
        with contextlib.suppress(OSError):  # closed by run
            while inbox.recv(64) != _STOP:
                self._wake.set()


def bars_of(found: Sequence[Quarantine], now: datetime) -> dict[str, Bar]:
    """By GPU."""
    return {one.gpu: Bar.PROBE if one.until is not None and one.until <= now else Bar.CLOSED for one in found}


def restart_due(worker: Worker) -> bool:
    """Somebody wishes it, and it is still the process they meant."""
    if worker.wish is not Wish.RESTART:
        return False
    return not worker.wish_of_node or worker.wish_at is None or worker.started_at < worker.wish_at


def main() -> None:
    settings = load_settings()
    log = start_log("dispatcher", settings.log_dir, settings.log_level)
    actors = Actors(settings)
    db = open_database(settings.database_url)
    dispatcher, sweeper = Dispatcher(settings, db, actors, log), Sweeper(settings, db, log)

    def stop(*_: Any) -> None:
        # On a thread: a handler must not take locks that the interrupted thread may hold.
        threading.Thread(target=dispatcher.stop, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        sweeper.start()
        dispatcher.run()
    except BaseException as error:
        log.error("dispatcher_failed", error)
        raise
    finally:
        sweeper.stop()
        send(settings.dispatcher_socket, _STOP)
        actors.close()


if __name__ == "__main__":
    main()
