"""Models: every set of weights that was ever seen under a name, and which living workers can load it."""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from farm.db import outbox
from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.tables import models, workers
from farm.db.workers import GONE, news
from farm.domain.errors import DatabaseUnavailable
from farm.domain.model import KnownModel, ModelOnDisk


def record(db: Database, seen: Sequence[ModelOnDisk]) -> None:
    """Note these weights. Those that are known stay as they are: the first sight counts."""
    _persist(db, seen, None)


def advertise(db: Database, worker_id: str, seen: Sequence[ModelOnDisk]) -> None:
    """Note them, and that this worker can load exactly these: only jobs pinned to one of them are its."""
    _persist(db, seen, worker_id)


def find(db: Database, heard_within: float = 30.0) -> list[KnownModel]:
    """All of them, the newest weights first."""
    heard = (workers.c.state != GONE) & (workers.c.heartbeat_at > farm_now(-heard_within))
    with db.read() as conn:
        held: Counter[tuple[str, str]] = Counter()
        said: Sequence[dict[str, str] | None] = conn.scalars(select(workers.c.available).where(heard)).all()
        for available in said:
            held.update((available or {}).items())
        stmt = select(models).order_by(models.c.first_seen.desc(), models.c.name, models.c.digest)
        return [
            KnownModel(row.name, row.digest, row.preset, row.bytes, row.first_seen, held[row.name, row.digest])
            for row in conn.execute(stmt)
        ]


def _persist(db: Database, seen: Sequence[ModelOnDisk], worker_id: str | None) -> None:
    for _ in range(5):
        try:
            with db.write() as conn:
                _insert(conn, seen)
                if worker_id is not None:
                    _offer(conn, seen, worker_id)
            return
        except IntegrityError:
            continue  # another worker noted the same weights between our look and our insert
    raise DatabaseUnavailable("other workers keep getting in the way", "it is tried again by itself")


def _insert(conn: Connection, seen: Sequence[ModelOnDisk]) -> None:
    known = {(row.name, row.digest) for row in conn.execute(select(models.c.name, models.c.digest))}
    for one in seen:
        if (one.name, one.digest) not in known:
            conn.execute(
                insert(models).values(
                    name=one.name, digest=one.digest, preset=dict(one.preset), bytes=one.bytes,
                    first_seen=farm_now(),
                )
            )  # fmt: skip


def _offer(conn: Connection, seen: Sequence[ModelOnDisk], worker_id: str) -> None:
    row = (
        conn.execute(
            update(workers)
            .where(workers.c.id == worker_id)
            .values(available={one.name: one.digest for one in seen})
            .returning(workers)
        )
        .mappings()
        .one_or_none()
    )
    if row is not None:
        outbox.append(conn, [news(row)])
