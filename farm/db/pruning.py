"""Finished jobs that make room: which there are, and one guarded statement for each that goes.

The files are not this room's business: what is marked here the collector frees, whoever dies in between.
"""

from sqlalchemy import ColumnElement, exists, func, select, update

from farm.db.dialect import farm_now, has_pair
from farm.db.engine import Database
from farm.db.tables import dependencies, jobs
from farm.db.transitions import told
from farm.domain.job import JobSpec
from farm.domain.prune import Candidate, Outlook, Scope
from farm.domain.states import FINAL, JobState

_waiter = jobs.alias("waiter")


def outlook(db: Database, scope: Scope) -> Outlook:
    """What would go, and what fits but stays. Changes nothing."""
    fits = _fits(scope)
    used = select(jobs.c.spec).where(jobs.c.spec.contains('"image":"', autoescape=True), jobs.c.hidden_at.is_(None))
    with db.read() as conn:
        now = conn.scalar(select(farm_now()))
        assert now is not None
        columns = (jobs.c.seq, jobs.c.artifact, jobs.c.video_removed_at, jobs.c.finished_at)
        found = conn.execute(select(*columns).where(*fits, ~_waited_for())).all()
        gone = set(conn.scalars(used.where(*fits, ~_waited_for()))) if found and not scope.keep_rows else set[str]()
        kept = set[str]()
        if gone:
            going = select(jobs.c.seq).where(*fits, ~_waited_for())
            kept = set(conn.scalars(used.where(jobs.c.seq.not_in(going))))
    ends = [row.finished_at for row in found]
    held = [row.artifact["bytes"] for row in found if row.artifact and row.video_removed_at is None]
    return Outlook(
        len(found), sum(held), min(ends, default=None), max(ends, default=None), waited_for(db, scope),
        len(_images(gone) & _images(kept)), now,
    )  # fmt: skip


def waited_for(db: Database, scope: Scope) -> int:
    """How many fit and stay, because jobs that are not over yet wait for them."""
    with db.read() as conn:
        return conn.scalar(select(func.count()).where(*_fits(scope), _waited_for())) or 0


def candidates(db: Database, scope: Scope, limit: int) -> list[Candidate]:
    """The oldest that fit and for which nobody waits."""
    stmt = select(jobs.c.id, jobs.c.epoch, jobs.c.finished_at).where(*_fits(scope), ~_waited_for())
    with db.read() as conn:
        return [
            Candidate(row.id, row.epoch, row.finished_at)
            for row in conn.execute(stmt.order_by(jobs.c.seq).limit(limit))
        ]


def prune(db: Database, scope: Scope, seen: Candidate) -> bool:
    """Takes the job out of every list, or with keep_rows only notes that its video is gone; for good.

    False: it is not any more what was seen, and stays. After True its files may go at once: nothing leads out of
    a final state for a hidden job, and nothing at all out of success.
    """
    with db.write() as conn:
        # Held still, against new references too: whoever lets a job wait for it meanwhile has done so before the
        # statement looks. One that comes later waits for its state, which stays.
        conn.execute(select(jobs.c.seq).where(jobs.c.id == seen.job).with_for_update())
        now = (
            {"video_removed_at": farm_now()}
            if scope.keep_rows
            else {"hidden_at": farm_now(), "idempotency_key": None}
        )
        row = (
            conn.execute(
                update(jobs)
                .where(
                    jobs.c.id == seen.job,
                    # The same end of the same claim: a job that was retried meanwhile may have ended anew.
                    jobs.c.epoch == seen.epoch,
                    jobs.c.finished_at == seen.finished_at,
                    *_fits(scope),
                    ~_waited_for(),
                )
                .values(updated_at=farm_now(), **now)
                .returning(jobs)
            )
            .mappings()
            .one_or_none()
        )
        if row is None:
            return False
        told(conn, row, "video_removed_at" if scope.keep_rows else "hidden_at")
        return True


def _fits(scope: Scope) -> list[ColumnElement[bool]]:
    same = ((jobs.c.owner, scope.owner), (jobs.c.project, scope.project), (jobs.c.batch, scope.batch))
    fits = [
        jobs.c.hidden_at.is_(None),
        jobs.c.state.in_(sorted(scope.states & FINAL)),
        jobs.c.finished_at <= (farm_now(-scope.older_than)),
        *(column == value for column, value in same if value is not None),
        *(has_pair(jobs.c.tags, key, value) for key, value in scope.tags.items()),
    ]
    if scope.as_of is not None:
        fits.append(jobs.c.finished_at <= scope.as_of)
    if scope.keep_rows:
        fits += [jobs.c.state == JobState.SUCCEEDED, jobs.c.video_removed_at.is_(None)]
    return fits


def _waited_for() -> ColumnElement[bool]:
    """A job that is not over yet names this one among what it waits for."""
    return exists().where(
        dependencies.c.needs == jobs.c.id, _waiter.c.id == dependencies.c.job, _waiter.c.state.not_in(sorted(FINAL))
    )


def _images(specs: set[str]) -> set[str]:
    return {image for spec in specs if (image := JobSpec.from_json(spec).image) is not None}
