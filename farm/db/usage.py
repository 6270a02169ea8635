"""Usage: the time that ended attempts have held their GPUs, by owner and project."""

from collections import defaultdict

from sqlalchemy import select

from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.tables import attempts, jobs
from farm.domain.states import Outcome
from farm.domain.usage import Usage


def usage(db: Database, days: float) -> list[Usage]:
    """Of the attempts that ended within the last `days`; the most GPU time first. Deleted jobs count."""
    stmt = (
        select(jobs.c.owner, jobs.c.project, attempts.c.outcome, attempts.c.started_at, attempts.c.finished_at)
        .join_from(attempts, jobs, jobs.c.id == attempts.c.job)
        .where(attempts.c.finished_at > farm_now(-days * 86400.0))
    )
    spent: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0, 0.0])
    with db.read() as conn:
        for row in conn.execute(stmt):
            sums = spent[row.owner, row.project]
            sums[0] += row.outcome is Outcome.SUCCEEDED
            sums[1] += 1
            if row.started_at is not None:
                sums[2] += max((row.finished_at - row.started_at).total_seconds(), 0.0)
    found = [Usage(owner, project, int(v), int(a), s) for (owner, project), (v, a, s) in spent.items()]
    return sorted(found, key=lambda one: (-one.gpu_seconds, one.owner, one.project))
