"""Workers: each a process under its boot id. What they say of themselves, and what operators wish of them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError

from farm.db import outbox, quarantines, rows
from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.fitting import GONE
from farm.db.tables import quarantines as quarantine_rows
from farm.db.tables import workers
from farm.domain.errors import WorkerNotFound
from farm.domain.states import Wish
from farm.domain.worker import Beat, NewWorker, Worker

__all__ = ["GONE", "beat", "find", "gone", "news", "register", "sweep", "wish"]


def register(db: Database, new: NewWorker) -> None:
    """Once per process. Registering the same boot id again changes nothing."""
    try:
        with db.write() as conn:
            row = (
                conn.execute(
                    insert(workers)
                    .values(
                        id=new.id,
                        node=new.node,
                        gpu=new.gpu,
                        device_name=new.device_name,
                        pid=new.pid,
                        tags=list(new.tags),
                        pool=new.pool,
                        memory_total=new.memory_total,
                        gpus=new.gpus,
                        models=[],
                        wish=Wish.RUN,
                        state="starting",
                        started_at=farm_now(),
                        heartbeat_at=farm_now(),
                    )
                    .returning(workers)
                )
                .mappings()
                .one()
            )
            outbox.append(conn, [news(row)])
    except IntegrityError:
        return  # a repeated call after a lost answer: the row is there


def beat(db: Database, beats: Sequence[Beat]) -> None:
    """Heartbeats of many workers in one transaction. Only a change that people see makes an event."""
    with db.write() as conn:
        for b in sorted(beats, key=lambda b: b.worker):  # rows are locked in one order everywhere
            before = (
                conn.execute(select(workers).where(workers.c.id == b.worker).with_for_update(key_share=True))
                .mappings()
                .one_or_none()
            )
            after = (
                conn.execute(
                    update(workers)
                    # A beat that was still on its way when its process died must not revive it.
                    .where(workers.c.id == b.worker, workers.c.ended_at.is_(None))
                    .values(
                        heartbeat_at=farm_now(),
                        state=b.state,
                        models=list(b.models),
                        memory=b.memory,
                        jobs_done=b.jobs_done,
                        load=None if b.load is None else asdict(b.load),
                    )
                    .returning(workers)
                )
                .mappings()
                .one_or_none()
            )
            if before is not None and after is not None and _seen(before) != _seen(after):
                outbox.append(conn, [news(after)])


def find(db: Database, gone_within: float = 3600.0) -> list[Worker]:
    """Every living worker, and those that went less than `gone_within` seconds ago; by node and device."""
    stmt = (
        rows.select_workers()
        .where((workers.c.state != GONE) | (workers.c.heartbeat_at > farm_now(-gone_within)))
        .order_by(workers.c.node, workers.c.gpu, workers.c.started_at)
    )
    with db.read() as conn:
        return [rows.worker(row) for row in conn.execute(stmt).mappings()]


def gone(db: Database, worker_id: str) -> None:
    """Its process has ended, for certain. Its leases are ended by leases.lost or the reaper."""
    with db.write() as conn:
        row = (
            conn.execute(
                update(workers)
                .where(workers.c.id == worker_id, workers.c.ended_at.is_(None))
                .values(state=GONE, ended_at=farm_now())
                .returning(workers)
            )
            .mappings()
            .one_or_none()
        )
        if row is not None:
            outbox.append(conn, [news(row)])


def wish(
    db: Database, worker_id: str, wanted: Wish, by: str = "somebody", reason: str | None = None, now: bool = False
) -> Worker:
    """What the operator wants; obeyed at the next heartbeat. Raises WorkerNotFound.

    now: the job in hand is given back at its next step; otherwise it is finished first. QUARANTINE sets the
    worker's GPU aside, which outlives the worker; RUN takes back what a person has so set aside.
    """
    with db.write() as conn:
        values = {"wish": wanted, "wish_by": by, "wish_reason": reason, "wish_now": now, "wish_at": farm_now()}
        row = (
            conn.execute(update(workers).where(workers.c.id == worker_id).values(**values).returning(workers))
            .mappings()
            .one_or_none()
        )
        if row is None:
            raise WorkerNotFound(f"there is no worker {worker_id!r}", "see them with: farm workers")
        if wanted is Wish.QUARANTINE:
            quarantines.put_within(conn, row["gpu"], row["node"], reason or "set aside by hand", by, None)
        elif wanted is Wish.RUN:
            quarantines.release_within(conn, row["gpu"], by, quarantine_rows.c.until.is_(None))
        outbox.append(conn, [news(row)])
        stmt = rows.select_workers().where(workers.c.id == worker_id)
        return rows.worker(conn.execute(stmt).mappings().one())


def sweep(db: Database, older_than: float = 30.0) -> list[str]:
    """Mark workers unheard for `older_than` seconds as gone; their ids. One that beats again is back."""
    with db.write() as conn:
        stmt = (
            update(workers)
            .where(workers.c.state != GONE, workers.c.heartbeat_at < farm_now(-older_than))
            .values(state=GONE)
            .returning(workers)
        )
        swept = list(conn.execute(stmt).mappings())
        outbox.append(conn, [news(row) for row in swept])
        return [row["id"] for row in swept]


def _seen(row: RowMapping) -> tuple[Any, ...]:
    return row["state"], row["models"], row["wish"], row["jobs_done"]


def news(row: RowMapping) -> tuple[str, str, dict[str, Any]]:
    """The outbox row that tells how a worker is now."""
    fields = (
        "node", "gpu", "device_name", "state", "wish", "wish_at", "wish_by", "wish_reason", "wish_now", "models",
        "available", "jobs_done", "memory", "heartbeat_at",
    )  # fmt: skip
    return "worker", row["id"], {name: row[name] for name in fields}
