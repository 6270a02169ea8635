"""A slot as the dispatcher keeps it: always manned, and what its worker was given outlives the worker."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from farm.cluster.actors import ActorDied, Actors, answer
from farm.cluster.claim import steady_clock
from farm.cluster.deaths import bury
from farm.cluster.gpu_worker import WorkerStatus
from farm.cluster.policies import quarantine_policy
from farm.cluster.slots import Slot
from farm.db import leases, quarantines
from farm.db.engine import Database
from farm.domain.job import Assignment
from farm.ops.logging import Log
from farm.settings import Settings

_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.25, 30.0
_NODE_LEAVES = 20.0  # seconds that a node which has said farewell gets until nobody is sent there any more
_STARTING = 120.0  # seconds for a worker's first word: on a machine under load, its imports alone take many
_SETTLED = 60.0  # seconds of life, or one finished job, after which a death is no longer one of a series


class Bar(Enum):
    """Whether the slot's device is in quarantine. PROBE: its time is over, and a probe may release it."""

    NONE = auto()
    CLOSED = auto()
    PROBE = auto()


@dataclass(frozen=True)
class _Death:
    """Still to be told to the database."""

    worker: str
    cause: str
    alone: bool


class Post:
    """Never waits for the actor: calls are futures that wake the dispatcher."""

    def __init__(
        self, slot: Slot, settings: Settings, actors: Actors, db: Database, wake: Callable[[], None], log: Log
    ) -> None:
        self._slot = slot
        self._settings = settings
        self._actors = actors
        self._db = db
        self._wake = wake
        self._log = log.bind(slot=slot.resource)
        self._actor: Any = None
        self._watch: Future[WorkerStatus] | None = None
        self._status: WorkerStatus | None = None
        self._given: Assignment | None = None
        self._offer: Future[int] | None = None
        self._taken_at = 0  # version of the status at which the worker took what it was given
        self._deaths: list[_Death] = []
        self._on_probation = self._failed_probe = False
        self._hung = ""  # why we have ended it
        self._backoff = 0.0
        self._employ_at = self._born_at = self._heard_at = steady_clock()

    @property
    def gpu(self) -> str:
        return self._slot.gpu

    @property
    def worker_id(self) -> str | None:
        return None if self._status is None else self._status.worker

    @property
    def idle(self) -> bool:
        return self._status is not None and self._status.ready and self._given is None

    @property
    def vacant(self) -> bool:
        """Nobody is here, and everybody who died here is buried."""
        return self._actor is None and not self._deaths

    def look(self, node_lives: bool, bar: Bar = Bar.NONE) -> None:
        """Hires, hears and buries. Raises FarmError while the database is away; nothing is lost by that."""
        self._tell_deaths()
        if self._actor is None:
            if node_lives and bar is not Bar.CLOSED and steady_clock() >= self._employ_at:
                self._employ(on_probation=bar is Bar.PROBE)
            return
        try:
            self._hear_offer()
            self._hear_status()
            if not node_lives:
                self._leave_no_ghost()
        except ActorDied as death:
            self._bury(death, node_lives)
            self._tell_deaths()
        else:
            if bar is not Bar.NONE and self.idle:
                self.replace("its device is in quarantine")

    def give(self, assignment: Assignment) -> None:
        assert self.idle
        self._given = assignment
        self._offer = self._actors.offer(self._actor, assignment, self._wake)

    def replace(self, why: str) -> None:
        """Ends this worker, which is idle; once it is seen dead another is hired, if any may be."""
        assert self._status is not None
        self._log.info("worker_replaced", worker=self.worker_id, why=why)
        self._status = replace(self._status, ready=False, ends=why)  # kept: whose death it is must be told
        self._on_probation = False  # idle: it has passed its probe, or comes from before and was never asked
        self._actors.kill(self._actor)

    def end_hung(self, cause: str) -> None:
        """Its job makes no progress, and its own watchdog has not ended it. Its death is told when it is seen."""
        if self._actor is not None:
            self._log.warning("worker_hangs", worker=self.worker_id, cause=cause)
            self._hung = cause
            self._actors.kill(self._actor)

    def end_if_silent(self, seconds: float) -> None:
        """A frozen process answers no calls. Ray would never notice. One that starts has not answered yet."""
        patience = max(seconds, _STARTING) if self._status is None else seconds
        if self._actor is not None and steady_clock() - self._heard_at > patience:
            self._log.warning("worker_frozen", worker=self.worker_id)
            self._heard_at = steady_clock()  # its node needs some seconds to end it
            self._actors.kill(self._actor)

    def _leave_no_ghost(self) -> None:
        """Ray tells of a lost node's actors by itself; not of one that it was still about to place there."""
        if self._status is None or steady_clock() - self._heard_at > self._settings.lease_ttl:
            self._actors.kill(self._actor)
            raise ActorDied("its node is gone", with_node=True)

    def _employ(self, on_probation: bool) -> None:
        self._on_probation = on_probation
        self._actor = self._actors.employ(self._slot, on_probation)
        self._born_at = self._heard_at = steady_clock()
        self._listen(seen=-1)

    def _listen(self, seen: int) -> None:
        self._watch = self._actors.watch(self._actor, seen, self._settings.lease_ttl / 3, self._wake)

    def _hear_status(self) -> None:
        if self._watch is None or not self._watch.done():
            return
        status: WorkerStatus | None = answer(self._watch)
        if status is None:  # the connection failed, not the process
            self._listen(seen=-1)
            return
        if self._status is None:
            self._log.info("worker_found", worker=status.worker, pid=status.pid)
        self._heard_at = steady_clock()
        self._status = status
        self._listen(seen=status.version)
        if self._given is not None and self._offer is None and status.version > self._taken_at:
            self._given = None  # its fate is in the database

    def _hear_offer(self) -> None:
        """The worker takes what it was offered, or the job goes back to the queue at once."""
        if self._offer is None or not self._offer.done() or self._given is None:
            return
        version: int | None = answer(self._offer)
        if version:
            self._taken_at, self._offer = version, None
            return
        self._log.warning("offer_refused", job=self._given.job, epoch=self._given.epoch)
        # Where only the answer was lost, the worker has started the job: then it cannot be recalled.
        leases.recall(self._db, self._given.job, self._given.epoch)
        self._given, self._offer = None, None

    def _bury(self, death: ActorDied, node_lives: bool) -> None:
        status = self._status
        alone = node_lives and not death.with_node
        if status is not None and status.ends:
            self._log.info("worker_ended", worker=self.worker_id, why=status.ends)
        else:
            self._log.warning("worker_died", worker=self.worker_id, cause=str(death), alone=alone)
        if status is not None:  # one that died before we heard of it is found by bury_forgotten
            cause = self._hung or f"the worker's process (pid {status.pid}) died"
            self._deaths.append(_Death(status.worker, cause, alone))
        if self._on_probation and alone:
            self._failed_probe = True
        settled = steady_clock() - self._born_at > _SETTLED or (status is not None and status.jobs_done > 0)
        self._backoff = _FIRST_BACKOFF if settled else min(_LONGEST_BACKOFF, 2 * self._backoff or _FIRST_BACKOFF)
        node_leaves = status is not None and status.leaving
        self._employ_at = steady_clock() + (_NODE_LEAVES if node_leaves else self._backoff)
        self._actor = self._watch = self._status = self._given = self._offer = None
        self._on_probation, self._hung = False, ""

    def _tell_deaths(self) -> None:
        if self._failed_probe:  # where the worker has said so itself, or was released, this changes nothing
            policy = quarantine_policy(self._settings)
            quarantines.probe_failed(self._db, self._slot.gpu, "the probe's process died", policy)
            self._failed_probe = False
        while self._deaths:
            dead = self._deaths[0]
            bury(self._settings, self._db, dead.worker, dead.cause, dead.alone, self._log)
            self._deaths.pop(0)
            self._wake()  # a job may be back in the queue
