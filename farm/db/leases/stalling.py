"""Claims whose worker says that it lives, but makes no progress. Only reported here: its process is killed by
its own node, and then `leases.lost` puts the blame and the job where they belong.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.tables import attempts, jobs, leases, workers
from farm.domain.job import JobSpec
from farm.domain.states import JobState, Outcome, StageName
from farm.scheduling.stalls import Sample, StallLimits, deadline, shape_of

_NEWEST = 1000  # succeeded jobs among which those alike are looked for
_LIMITS = StallLimits()


@dataclass(frozen=True)
class Stalled:
    """`since`: the last progress, `seconds` ago; more than `allowed` seconds in that stage count as hung."""

    job: str
    epoch: int
    worker: str
    node: str
    gpu: str
    pid: int
    stage: StageName
    k: int
    n: int
    since: datetime
    seconds: float
    allowed: float

    @property
    def cause(self) -> str:
        """For people, as `leases.lost` is told it."""
        at = f"{self.stage}, step {self.k} of {self.n}" if self.n else str(self.stage)
        return f"no progress for {self.seconds:.0f} s in {at}; {self.allowed:.0f} s are long enough"


def stalled(db: Database, limits: StallLimits = _LIMITS) -> list[Stalled]:
    """Running claims that have hung for longer than others of their kind took, the longest first."""
    with db.read() as conn:
        now: datetime = conn.execute(select(farm_now())).scalar_one()
        stmt = (
            select(leases, jobs.c.spec, workers.c.node, workers.c.gpu, workers.c.pid)
            .join(jobs, jobs.c.id == leases.c.job)
            .join(workers, workers.c.id == leases.c.worker)
            .where(jobs.c.state == JobState.RUNNING, leases.c.progress_at < farm_now(-limits.shortest))
            # What a lease that ran out says is old: while the database is away nobody can tell it of progress.
            .where(leases.c.expires_at > farm_now())
            .order_by(leases.c.progress_at)
        )
        slow = conn.execute(stmt).all()
        samples = _samples(conn) if slow else []
    found: list[Stalled] = []
    for row in slow:
        stage = row.stage or StageName.LOADING
        allowed = deadline(stage, shape_of(JobSpec.from_json(row.spec)), samples, limits)
        seconds = (now - row.progress_at).total_seconds()
        if allowed is not None and seconds > allowed:
            found.append(
                Stalled(
                    row.job, row.epoch, row.worker, row.node, row.gpu, row.pid, stage, row.k, row.n,
                    row.progress_at, seconds, allowed,
                )
            )  # fmt: skip
    return found


def deadlines(db: Database, spec: JobSpec, limits: StallLimits = _LIMITS) -> Mapping[StageName, float]:
    """Seconds without progress allowed in each stage of such a job; a stage that may wait for ever is missing."""
    with db.read() as conn:
        samples = _samples(conn)
    allowed = {stage: deadline(stage, shape_of(spec), samples, limits) for stage in StageName}
    return {stage: seconds for stage, seconds in allowed.items() if seconds is not None}


def _samples(conn: Connection) -> list[Sample]:
    stmt = (
        select(jobs.c.spec, attempts.c.timings)
        .join(attempts, (attempts.c.job == jobs.c.id) & (attempts.c.epoch == jobs.c.epoch))
        .where(jobs.c.state == JobState.SUCCEEDED, attempts.c.outcome == Outcome.SUCCEEDED)
        .order_by(jobs.c.seq.desc())
        .limit(_NEWEST)
    )
    found: list[Sample] = []
    for text, timings in conn.execute(stmt):
        spec = JobSpec.from_json(text)
        found.append(Sample(shape_of(spec), spec.steps, timings))
    return found
