"""Deaths that nobody saw: workers of this machine whose process ended while no dispatcher watched it."""

import socket
from datetime import UTC, datetime, timedelta

from farm.cluster import processes
from farm.db import jobs, leases, workers
from farm.db.engine import Database
from farm.db.progress import progress
from farm.domain.worker import Worker
from farm.ops.logging import Log
from farm.settings import Settings


def bury_forgotten(settings: Settings, db: Database, log: Log) -> int:
    """After Ray or the whole farm was killed: their jobs need not wait for a lease. How many were found."""
    silent_since = datetime.now(UTC) - timedelta(seconds=2 * settings.renew_every)
    dead = [
        worker
        for worker in workers.find(db, gone_within=0.0)
        if worker.node == socket.gethostname()
        # A process may be invisible from here (another container); one that also says nothing is gone.
        and worker.heartbeat_at < silent_since
        and processes.started(worker.pid) is None
    ]
    for worker in dead:
        _bury(settings, db, worker, log)
    return len(dead)


def _bury(settings: Settings, db: Database, worker: Worker, log: Log) -> None:
    for leased, at in progress(db).items():
        if at.worker != worker.id:
            continue
        job = jobs.get(db, leased)  # epoch and worker as they are at one moment
        if job.progress is not None and job.progress.worker == worker.id:
            state = leases.lost(
                db, job.id, job.epoch, f"the worker's process (pid {worker.pid}) died",
                crash_cap=settings.crash_cap,
            )  # fmt: skip
            log.warning("forgotten_death_told", job=job.id, epoch=job.epoch, worker=worker.id, now=state)
    workers.gone(db, worker.id)
