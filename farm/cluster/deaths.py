"""What the death of a worker's process means: its claims end at once, and nobody counts on it any more."""

from datetime import UTC, datetime, timedelta

from farm.cluster import processes
from farm.db import leases, workers
from farm.db.engine import Database
from farm.ops.logging import Log
from farm.settings import Settings


def bury(settings: Settings, db: Database, worker: str, cause: str, alone: bool, log: Log) -> None:
    """Its jobs need not wait for their leases; the fence decides as always. Safe to repeat.

    alone: it died, and not its whole node; only then its job may be to blame.
    """
    for job, epoch in leases.held(db, worker):
        state = leases.lost(db, job, epoch, cause, crash_cap=settings.crash_cap, agent_lived=alone)
        log.warning("death_told", job=job, epoch=epoch, worker=worker, now=state)
    workers.gone(db, worker)


def bury_forgotten(settings: Settings, db: Database, log: Log) -> int:
    """Workers of this node that died while no dispatcher watched them: Ray or the whole farm was killed."""
    silent_since = datetime.now(UTC) - timedelta(seconds=2 * settings.renew_every)
    dead = [
        worker
        for worker in workers.find(db, gone_within=0.0)
        if worker.node == settings.node_name
        # A process may be invisible from here (another container); one that also says nothing is gone.
        and worker.heartbeat_at < silent_since
        and processes.started(worker.pid) is None
    ]
    for worker in dead:
        # Nobody saw how: it may have gone with Ray, or with everything.
        bury(settings, db, worker.id, f"the worker's process (pid {worker.pid}) died", False, log)
    return len(dead)
