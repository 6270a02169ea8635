"""GPUs that are set aside: by faults or by a person. Nothing is claimed on them until they are released.

When its time is over a GPU is not simply used again: a probe is due, and only one that passes releases it.
"""

import contextlib
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from farm.db import outbox, rows
from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.tables import FAULTED, attempts, quarantines, workers
from farm.domain.errors import GpuNotFound
from farm.domain.worker import Quarantine
from farm.scheduling.quarantine import QuarantinePolicy

FAULTS = "faults"  # `by`, where no person did it
PROBE = "probe"
_IN_FORCE = quarantines.c.released_at.is_(None)
_POLICY = QuarantinePolicy()


def find(db: Database) -> list[Quarantine]:
    """Every GPU that is in quarantine now."""
    with db.read() as conn:
        stmt = select(quarantines).where(_IN_FORCE).order_by(quarantines.c.node, quarantines.c.gpu)
        return [rows.quarantine(row) for row in conn.execute(stmt).mappings()]


def put(db: Database, gpu: str, reason: str, by: str, seconds: float | None = None) -> Quarantine:
    """Set it aside: for `seconds` and then until a probe passes; None: until a person releases it.

    Raises GpuNotFound for one on which no worker ever ran.
    """
    with db.write() as conn:
        node = conn.scalar(
            select(workers.c.node).where(workers.c.gpu == gpu).order_by(workers.c.started_at.desc()).limit(1)
        )
        if node is None:
            raise GpuNotFound(f"there is no GPU {gpu!r}", "see them with: farm workers")
        return rows.quarantine(put_within(conn, gpu, node, reason, by, seconds))


def release(db: Database, gpu: str, by: str) -> bool:
    """A person says that it is well; no probe is asked. False: it is not in quarantine."""
    with db.write() as conn:
        return release_within(conn, gpu, by)


def probe_due(db: Database, node: str | None = None) -> list[Quarantine]:
    """Those whose time is over (of one node): each is to be probed, and is not used before."""
    over = _IN_FORCE & (quarantines.c.until <= farm_now())
    if node is not None:
        over &= quarantines.c.node == node
    with db.read() as conn:
        return [rows.quarantine(row) for row in conn.execute(select(quarantines).where(over)).mappings()]


def probe_passed(db: Database, gpu: str, said: str) -> bool:
    """It may work again. False: it was not due for a probe, and stays as it is."""
    with db.write() as conn:
        found = {"released_at": farm_now(), "released_by": PROBE}
        return _probed(conn, gpu, said, **found)


def probe_failed(db: Database, gpu: str, said: str, policy: QuarantinePolicy = _POLICY) -> bool:
    """Again, for twice as long. False: it was not due for a probe."""
    with db.write() as conn:
        times = conn.scalar(select(quarantines.c.times).where(quarantines.c.gpu == gpu).with_for_update()) or 0
        return _probed(conn, gpu, said, times=times + 1, until=farm_now(policy.lasts(times + 1)))


def after_fault(conn: Connection, gpu: str, node: str, policy: QuarantinePolicy) -> None:
    """Inside the transaction that closes an attempt with a fault: one job's fault is its own, two are the GPU's."""
    # Faults from before its last quarantine have been paid for.
    recent = select(func.count(attempts.c.job.distinct())).where(
        FAULTED, attempts.c.gpu == gpu, attempts.c.finished_at > farm_now(-policy.within), _since_released(gpu)
    )
    jobs = conn.scalar(recent) or 0
    if jobs < policy.faults:
        return
    before = conn.execute(select(quarantines).where(quarantines.c.gpu == gpu).with_for_update()).one_or_none()
    if before is not None and before.released_at is None:
        return  # it is there already: a job that was still running on it has failed too
    times = 1
    if before is not None:
        times = policy.next_time(before.times, before.released_at, _now(conn))
    reason = f"{jobs} different jobs met device faults on it within {round(policy.within / 60)} minutes"
    put_within(conn, gpu, node, reason, FAULTS, policy.lasts(times), times)


def put_within(
    conn: Connection, gpu: str, node: str, reason: str, by: str, seconds: float | None, times: int = 1
) -> RowMapping:
    """The newest word counts: a person may prolong what faults began."""
    values: dict[str, Any] = {
        "node": node, "reason": reason, "by": by, "since": farm_now(), "times": times, "released_at": None,
        "released_by": None, "until": None if seconds is None else farm_now(seconds),
    }  # fmt: skip
    if conn.scalar(select(quarantines.c.gpu).where(quarantines.c.gpu == gpu)) is None:
        with contextlib.suppress(IntegrityError), conn.begin_nested():  # another may be doing the same
            conn.execute(insert(quarantines).values(gpu=gpu, probes=0, **values))
    changed = update(quarantines).where(quarantines.c.gpu == gpu).values(**values).returning(quarantines)
    row = conn.execute(changed).mappings().one()
    _tell(conn, row)
    return row


def release_within(conn: Connection, gpu: str, by: str, *guards: ColumnElement[bool]) -> bool:
    row = (
        conn.execute(
            update(quarantines)
            .where(quarantines.c.gpu == gpu, _IN_FORCE, *guards)
            .values(released_at=farm_now(), released_by=by)
            .returning(quarantines)
        )
        .mappings()
        .one_or_none()
    )
    if row is not None:
        _tell(conn, row)
    return row is not None


def _probed(conn: Connection, gpu: str, said: str, **found: Any) -> bool:
    row = (
        conn.execute(
            update(quarantines)
            # A person may have prolonged it while the probe ran.
            .where(quarantines.c.gpu == gpu, _IN_FORCE, quarantines.c.until <= farm_now())
            .values(probes=quarantines.c.probes + 1, last_probe_at=farm_now(), last_probe=said, **found)
            .returning(quarantines)
        )
        .mappings()
        .one_or_none()
    )
    if row is not None:
        _tell(conn, row)
    return row is not None


def _since_released(gpu: str) -> ColumnElement[bool]:
    released = select(quarantines.c.released_at).where(quarantines.c.gpu == gpu).scalar_subquery()
    return attempts.c.finished_at > func.coalesce(released, farm_now(-1e9))


def _now(conn: Connection) -> datetime:
    return conn.execute(select(farm_now())).scalar_one()


def _tell(conn: Connection, row: RowMapping) -> None:
    fields = ("node", "reason", "by", "since", "until", "times", "probes", "last_probe_at", "last_probe")
    in_force = row["released_at"] is None
    news = {name: row[name] for name in fields} | {"quarantined": in_force, "released_by": row["released_by"]}
    outbox.append(conn, [("gpu", row["gpu"], news)])
