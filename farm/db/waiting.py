"""Jobs that wait for a time or for other jobs: accepted with what they need, queued or cancelled by `due`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, exists, insert, literal, or_, select

from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.tables import dependencies, jobs
from farm.db.transitions import move, wake_lane
from farm.domain.cycles import cycle
from farm.domain.errors import InvalidRequest
from farm.domain.job import KEY_OF, Dependency, JobError, NewJob
from farm.domain.states import CANCEL_HOPELESS, DUE, FINAL, After, JobState

Key = tuple[str, str | None, str]  # owner, batch, idempotency key

_needed = jobs.alias("needed")
_AT_ONCE = 500


def due(db: Database) -> list[str]:
    """Queue the scheduled jobs whose time has come and whose dependencies are met; their ids.

    One that waits for the success of a job which failed or was cancelled is cancelled, and so is what waits
    for that one in its turn.
    """
    with db.read() as conn:  # mostly nothing is due, and a look should keep nobody from writing
        if not _ready(conn) and not _hopeless(conn):
            return []
    with db.write() as conn:
        # Each round may leave others without hope; what is too much for one transaction, the next call does.
        done = 0
        while done < _AT_ONCE and (hopeless := _hopeless(conn)):
            done += len(hopeless)
            for job, needs, state in hopeless:
                error = JobError(
                    "dependency_failed",
                    f"it waited for {needs}, which {_ENDED[state]}",
                    f"retry {needs} first, then this one",
                )
                move(conn, CANCEL_HOPELESS, jobs.c.id == job, error=asdict(error))
        for lane in sorted({lane for _, lane in _ready(conn)}):
            wake_lane(conn, lane)
        return [row["id"] for row in move(conn, DUE, its_time(), met())]


_ENDED = {JobState.FAILED: "failed", JobState.CANCELLED: "was cancelled"}


def its_time() -> ColumnElement[bool]:
    return or_(jobs.c.not_before.is_(None), jobs.c.not_before <= farm_now())


def met() -> ColumnElement[bool]:
    """No dependency of the job is still open, or has ended otherwise than it had to."""
    as_wished = or_(
        _needed.c.state == JobState.SUCCEEDED,
        and_(dependencies.c.mode == After.ANY, _needed.c.state.in_(sorted(FINAL))),
    )
    return ~exists().where(dependencies.c.job == jobs.c.id, _needed.c.id == dependencies.c.needs, ~as_wished)


def depends_on(conn: Connection, job: str) -> list[Dependency]:
    """What the job waits for, or waited for, with how each is now."""
    stmt = (
        select(dependencies.c.needs, dependencies.c.mode, _needed.c.state)
        .join(_needed, _needed.c.id == dependencies.c.needs)
        .where(dependencies.c.job == job)
        .order_by(_needed.c.seq)
    )
    return [Dependency(row.needs, row.mode, row.state) for row in conn.execute(stmt)]


def dependents(conn: Connection, job: str) -> list[tuple[str, JobState]]:
    """Who waits for the job, or waited for it, with how each is now."""
    stmt = (
        select(jobs.c.id, jobs.c.state)
        .join(dependencies, dependencies.c.job == jobs.c.id)
        .where(dependencies.c.needs == job, jobs.c.hidden_at.is_(None))
        .order_by(jobs.c.seq)
        .limit(_AT_ONCE)
    )
    return [(row.id, row.state) for row in conn.execute(stmt)]


def resolve(
    conn: Connection, fresh: Sequence[tuple[str, NewJob]], known: Mapping[Key, str]
) -> dict[str, list[Dependency]]:
    """What each of these new jobs waits for, by ids, with how it is now; jobs that wait for none are left out.

    `known`: jobs by owner, batch and key, the new ones among them. Raises InvalidRequest.
    """
    needs: dict[str, list[Dependency]] = {}
    found: dict[tuple[str, str], Dependency] = {}  # whole batches wait for the same job
    new = {job for job, _ in fresh}
    for job, wish in fresh:
        for one in wish.depends_on:
            text = one.needs
            if text.startswith(KEY_OF):
                text = known.get((wish.owner, wish.batch, text.removeprefix(KEY_OF)), text)
            there = Dependency(text) if text in new else found.get((wish.owner, text))
            if there is None:
                there = found[wish.owner, text] = _look_up(conn, wish.owner, text)
            there = replace(there, after=one.after)
            if there.hopeless:
                raise _refused(
                    f"{there.needs} {_ENDED.get(there.state or JobState.FAILED)}: what waits for its success "
                    "could never start",
                    f"retry {there.needs} first, or wait for any end of it",
                )
            if there.needs not in {other.needs for other in needs.get(job, ())}:
                needs.setdefault(job, []).append(there)
    ring = cycle({job: [one.needs for one in wanted] for job, wanted in needs.items()})
    if ring is not None:
        what = "a job waits for itself" if len(ring) == 1 else f"{len(ring)} jobs wait for each other in a ring"
        raise _refused(f"{what}: none of them could ever start", "leave one of them out")
    return needs


def keep(conn: Connection, needs: Mapping[str, Sequence[Dependency]]) -> None:
    """For jobs that are accepted in this transaction."""
    edges = [{"job": job, "needs": one.needs, "mode": one.after} for job, all_ in needs.items() for one in all_]
    if edges:
        conn.execute(insert(dependencies), edges)


def _look_up(conn: Connection, owner: str, text: str) -> Dependency:
    """The one job that is meant. Somebody else's, or a hidden one, is as good as none: nothing is told of it."""
    prefix = text if text.startswith("job_") else f"job_{text}"
    found = select(jobs.c.id, jobs.c.state).where(
        jobs.c.owner == owner, jobs.c.hidden_at.is_(None), jobs.c.id >= prefix, jobs.c.id <= prefix + "z" * 12
    )
    # A shorter one would soon mean another job.
    rows = conn.execute(found.where(literal(len(prefix) >= _SHORTEST)).limit(2)).all()
    if len(rows) != 1:
        what = "more than one job begins with" if rows else "there is no job"
        raise _refused(f"{what} {text[:40]!r} to wait for", "see the jobs there are: farm list")
    return Dependency(rows[0].id, state=rows[0].state)


def _refused(message: str, next: str) -> InvalidRequest:
    return InvalidRequest(message, next, "depends_on")


_SHORTEST = len("job_") + 6  # of an id


def _ready(conn: Connection) -> list[tuple[str, str]]:
    stmt = select(jobs.c.id, jobs.c.lane).where(jobs.c.state == JobState.SCHEDULED, its_time(), met())
    return [(row.id, row.lane) for row in conn.execute(stmt.limit(_AT_ONCE))]


def _hopeless(conn: Connection) -> list[Any]:
    """(job, one that it needs, how that one ended)"""
    stmt = (
        select(jobs.c.id, _needed.c.id, _needed.c.state)
        .join(dependencies, dependencies.c.job == jobs.c.id)
        .join(_needed, _needed.c.id == dependencies.c.needs)
        .where(
            jobs.c.state == JobState.SCHEDULED,
            dependencies.c.mode == After.SUCCESS,
            _needed.c.state.in_([JobState.FAILED, JobState.CANCELLED]),
        )
        .order_by(jobs.c.seq)
        .limit(_AT_ONCE)
    )
    return [(row[0], row[1], row[2]) for row in conn.execute(stmt)]
