"""Lists of jobs: pages of those that fit a filter, how many of them are in each state, and by what to filter."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select

from farm.db import rows
from farm.db.dialect import has_pair
from farm.db.engine import Database
from farm.db.tables import jobs
from farm.db.tables import lanes as lane_rows
from farm.domain.errors import InvalidRequest
from farm.domain.job import Job
from farm.domain.states import JobState

_RECENT = 500  # jobs whose tags are offered


@dataclass(frozen=True)
class Labels:
    """What the farm's jobs may be told apart by. `tags`: pairs of recent jobs."""

    models: tuple[str, ...]
    owners: tuple[str, ...]
    projects: tuple[str, ...]
    tags: tuple[tuple[str, str], ...]


def find(
    db: Database,
    *,
    states: Collection[JobState] | None = None,
    model: str | None = None,
    owner: str | None = None,
    project: str | None = None,
    tag: tuple[str, str] | None = None,
    batch: str | None = None,
    search: str | None = None,
    limit: int = 50,
    after: str | None = None,
    order: str = "desc",
) -> tuple[list[Job], str | None]:
    """A page of jobs by age, newest first (or order="asc"), and the cursor of the next page if there is one.

    `search` looks into prompts. The cursor is the id of a page's last job. Hidden jobs are left out.
    """
    if order not in {"asc", "desc"}:
        raise InvalidRequest(f"unknown order {order!r}", "use asc or desc", field="order")
    stmt = rows.select_jobs().where(*_fitting(model, owner, project, tag, batch, search))
    if states is not None:
        stmt = stmt.where(jobs.c.state.in_(sorted(states)))
    if after is not None:
        # The age of the cursor's job, not its place: pages hold still while new jobs arrive.
        seq = select(jobs.c.seq).where(jobs.c.id == after).scalar_subquery()
        stmt = stmt.where(jobs.c.seq < seq if order == "desc" else jobs.c.seq > seq)
    stmt = stmt.order_by(jobs.c.seq.desc() if order == "desc" else jobs.c.seq)
    with db.read() as conn:
        if after is not None and conn.scalar(select(jobs.c.seq).where(jobs.c.id == after)) is None:
            raise InvalidRequest(f"unknown cursor {after!r}", "list again from the start", field="after")
        page = [
            rows.job(row) for row in conn.execute(stmt.limit(limit + 1)).mappings()
        ]  # one more: is there a next?
    return page[:limit], page[limit - 1].id if len(page) > limit > 0 else None


def counts(
    db: Database,
    *,
    model: str | None = None,
    owner: str | None = None,
    project: str | None = None,
    tag: tuple[str, str] | None = None,
    batch: str | None = None,
    search: str | None = None,
) -> dict[JobState, int]:
    """How many of the jobs that fit are in each state; every state is named."""
    fits = _fitting(model, owner, project, tag, batch, search)
    stmt = select(jobs.c.state, func.count()).where(*fits).group_by(jobs.c.state)
    with db.read() as conn:
        return dict.fromkeys(JobState, 0) | {state: n for state, n in conn.execute(stmt)}


def labels(db: Database) -> Labels:
    with db.read() as conn:
        lanes = conn.execute(select(lane_rows.c.model, lane_rows.c.owner, lane_rows.c.project)).all()
        recent = select(jobs.c.tags).where(jobs.c.hidden_at.is_(None)).order_by(jobs.c.seq.desc()).limit(_RECENT)
        tags = {(key, value) for given in conn.scalars(recent) for key, value in given.items()}
    models, owners, projects = (tuple(sorted({str(lane[i]) for lane in lanes})) for i in range(3))
    return Labels(models, owners, projects, tuple(sorted(tags)))


def _fitting(
    model: str | None,
    owner: str | None,
    project: str | None,
    tag: tuple[str, str] | None,
    batch: str | None,
    search: str | None,
) -> list[ColumnElement[bool]]:
    same = ((jobs.c.model, model), (jobs.c.owner, owner), (jobs.c.project, project), (jobs.c.batch, batch))
    wanted = [jobs.c.hidden_at.is_(None), *(column == value for column, value in same if value is not None)]
    if tag is not None:
        wanted.append(has_pair(jobs.c.tags, *tag))
    if search:
        wanted.append(jobs.c.prompt.icontains(search, autoescape=True))
    return wanted
