"""What of the store the database knows to be dead: the collector asks after it has listed the store."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import select

from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.tables import jobs
from farm.domain.job import JobSpec
from farm.domain.remains import Claim, Death
from farm.domain.states import FINAL, JobState


class Remains:
    """`hidden_for`: seconds that a hidden job's files stay; `ended_for`: those of a job's last attempt."""

    def __init__(self, db: Database, hidden_for: float, ended_for: float) -> None:
        self._db = db
        self._hidden_for = hidden_for
        self._ended_for = ended_for

    def dead(self, claims: Collection[Claim]) -> dict[Claim, Death | None]:
        ended = (jobs.c.finished_at < farm_now(-self._ended_for)).label("ended")
        hidden = (jobs.c.hidden_at < farm_now(-self._hidden_for)).label("hidden")
        stmt = select(
            jobs.c.id, jobs.c.epoch, jobs.c.state, jobs.c.artifact, jobs.c.video_removed_at, ended, hidden
        ).where(jobs.c.id.in_({job for job, _ in claims}))
        with self._db.read() as conn:
            known = {row.id: row for row in conn.execute(stmt)}
        # An epoch that was never handed out is not of this database: it may be an older copy of the one that is.
        return {
            (job, epoch): _death(known[job], epoch)
            for job, epoch in claims
            if job in known and epoch <= known[job].epoch
        }

    def unnamed(self, digests: Collection[str]) -> set[str]:
        stmt = select(jobs.c.spec).where(
            jobs.c.spec.contains('"image":"', autoescape=True),
            jobs.c.hidden_at.is_(None)
            | (jobs.c.hidden_at >= farm_now(-self._hidden_for))
            | jobs.c.state.not_in(sorted(FINAL)),
        )
        with self._db.read() as conn:
            named = {JobSpec.from_json(spec).image for spec in conn.scalars(stmt)}
        return set(digests) - {digest for digest in named if digest is not None}


def _death(job: Any, epoch: int) -> Death | None:
    if job.state in FINAL and job.hidden:
        return Death.HIDDEN
    if job.video_removed_at is not None:
        return Death.REMOVED
    if job.artifact is not None and job.artifact["key"].startswith(f"{_prefix(job.id, epoch)}/"):
        return Death.PREVIEWS if job.state is JobState.SUCCEEDED and job.ended else None
    if epoch < job.epoch:
        return Death.LOSER
    # Its last claim. While it waits in the queue at this epoch a worker that was given up may still deliver, and
    # for a while after its end its files may be of use to whoever looks what went wrong.
    return Death.LOSER if job.state in FINAL and job.ended else None


def _prefix(job: str, epoch: int) -> str:
    return f"videos/{job}/{epoch}"
