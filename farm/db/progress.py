"""Where every running job is, read from the leases: far more often than the outbox should grow."""

from sqlalchemy import select

from farm.db import rows
from farm.db.engine import Database
from farm.db.tables import jobs, leases
from farm.domain.job import Progress
from farm.domain.states import JobState


def progress(db: Database) -> dict[str, Progress]:
    """Progress of the running jobs, by job id."""
    stmt = select(leases).join(jobs, jobs.c.id == leases.c.job).where(jobs.c.state == JobState.RUNNING)
    with db.read() as conn:
        return {row["job"]: rows.progress(row) for row in conn.execute(stmt).mappings()}
