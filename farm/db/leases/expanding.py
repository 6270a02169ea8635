"""The prompt as a text stage has expanded it: written once, by the claim that holds the job."""

from sqlalchemy import Connection, select, update

from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.leases.settling import settled
from farm.db.tables import jobs
from farm.db.transitions import is_claim, told
from farm.domain.states import JobState


def expand(db: Database, job: str, epoch: int, text: str) -> bool:
    """False: the claim is void, or another text has been written before; that one counts."""

    def act(conn: Connection) -> bool:
        written = conn.execute(
            update(jobs)
            .where(is_claim(job, epoch), jobs.c.state == JobState.RUNNING, jobs.c.expanded_prompt.is_(None))
            .values(expanded_prompt=text, updated_at=farm_now())
            .returning(jobs)
        )
        row = written.mappings().one_or_none()
        if row is None:
            return already(conn) or False
        told(conn, row, "expanded_prompt")
        return True

    def already(conn: Connection) -> bool | None:
        mine = is_claim(job, epoch) & (jobs.c.state == JobState.RUNNING)
        return conn.scalar(select(jobs.c.expanded_prompt).where(mine)) == text or None

    return settled(db, act, already)
