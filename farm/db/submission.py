"""Accepting wishes: each becomes a row, or finds the row that its idempotency key made before."""

import secrets
from base64 import b32encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from farm.db import outbox, rows, waiting
from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.tables import batches, jobs, lanes
from farm.db.transitions import wake_lane
from farm.db.waiting import resolve
from farm.domain.errors import DatabaseUnavailable, IdempotencyConflict, InvalidRequest, TransactionConflict
from farm.domain.job import KEY_OF, Dependency, Job, JobSpec, NewJob, Submitted
from farm.domain.states import JobState
from farm.scheduling.lanes import LaneClass, lane_id

Key = tuple[str, str | None, str]  # owner, batch, idempotency key
CHUNK = 500  # bound parameters per statement are limited


def submit(db: Database, new: Sequence[NewJob]) -> list[Submitted]:
    """All of them, durably, in their order; or none. A key met before gives the job of then.

    Raises IdempotencyConflict where that job has another spec.
    """
    for _ in range(5):
        try:
            with db.write() as conn:
                return _accept(conn, new)
        except (IntegrityError, TransactionConflict):
            continue  # another process took a key (or an id) between our look and our insert: look again
    raise DatabaseUnavailable("other submissions keep getting in the way", "try again, nothing was accepted")


def new_id() -> str:
    """60 random bits: prefixes tell jobs apart after a few characters, and nobody can guess the next."""
    return "job_" + b32encode(secrets.token_bytes(8)).decode().lower()[:12]


def _accept(conn: Connection, new: Sequence[NewJob]) -> list[Submitted]:
    now = conn.scalar(select(farm_now()))
    known = _known(conn, new)
    ids: list[tuple[str, bool]] = []
    fresh: list[tuple[str, NewJob]] = []
    for wish in new:
        key = _key(wish)
        if key is not None and key in known:
            job_id, spec = known[key]
            if spec != wish.spec:
                raise IdempotencyConflict(
                    f"the idempotency key {key[2]!r} already belongs to job {job_id}, which has another spec",
                    "use a new key for a new video",
                    field="idempotency_key",
                )
            ids.append((job_id, False))
            continue
        job_id = new_id()
        fresh.append((job_id, wish))
        ids.append((job_id, True))
        if key is not None:
            known[key] = (job_id, wish.spec)
    if fresh:
        needs = resolve(conn, fresh, {key: job_id for key, (job_id, _) in known.items()})
        table = [_row(job_id, wish, now, needs.get(job_id, ())) for job_id, wish in fresh]
        _insert(conn, new, table)
        waiting.keep(conn, needs)
        jobs_by_id = _read(conn, {job_id for job_id, _ in ids})
        _announce(conn, [(jobs_by_id[job_id], needs.get(job_id, ())) for job_id, _ in fresh])
    else:
        jobs_by_id = _read(conn, {job_id for job_id, _ in ids})
    return [Submitted(jobs_by_id[job_id], created) for job_id, created in ids]


def _key(wish: NewJob) -> Key | None:
    return None if wish.idempotency_key is None else (wish.owner, wish.batch, wish.idempotency_key)


def _known(conn: Connection, new: Iterable[NewJob]) -> dict[Key, tuple[str, JobSpec]]:
    """By their keys, the jobs that these wishes mean: with their own key, or as one that they wait for."""
    scopes: dict[tuple[str, str | None], set[str]] = {}
    for wish in new:
        keys = {one.needs.removeprefix(KEY_OF) for one in wish.depends_on if one.needs.startswith(KEY_OF)}
        if wish.idempotency_key is not None:
            keys.add(wish.idempotency_key)
        if keys:
            scopes.setdefault((wish.owner, wish.batch), set()).update(keys)
    known: dict[Key, tuple[str, JobSpec]] = {}
    for (owner, batch), keys in scopes.items():
        for chunk in _chunks(sorted(keys)):
            stmt = select(jobs.c.id, jobs.c.idempotency_key, jobs.c.spec).where(
                jobs.c.owner == owner,
                jobs.c.batch.is_(None) if batch is None else jobs.c.batch == batch,
                jobs.c.idempotency_key.in_(chunk),
            )
            for row in conn.execute(stmt):
                known[owner, batch, row.idempotency_key] = (row.id, JobSpec.from_json(row.spec))
    return known


def _row(job_id: str, wish: NewJob, now: Any, needs: Sequence[Dependency]) -> dict[str, Any]:
    if wish.not_before is not None and wish.not_before.tzinfo is None:
        raise InvalidRequest("the time to start at has no time zone", "add one, or Z for UTC", "not_before")
    state = JobState.QUEUED
    if (wish.not_before is not None and wish.not_before > now) or not all(one.met for one in needs):
        state = JobState.SCHEDULED
    if wish.hold:
        state = JobState.HELD
    return {
        "id": job_id,
        "owner": wish.owner,
        "project": wish.project,
        "batch": wish.batch,
        "lane": lane_id(wish.owner, wish.project, wish.interactive, wish.spec.model),
        "idempotency_key": wish.idempotency_key,
        "spec": wish.spec.canonical(),
        "model": wish.spec.model,
        "model_digest": wish.spec.model_digest,
        "prompt": wish.spec.prompt,
        "tags": dict(wish.tags),
        "priority": wish.priority,
        "not_before": wish.not_before,
        "requires": None if wish.requires is None else asdict(wish.requires),
        "state": state,
    }


def _insert(conn: Connection, new: Sequence[NewJob], fresh: list[dict[str, Any]]) -> None:
    wanted = {row["lane"] for row in fresh}
    for wish in new:
        lane = lane_id(wish.owner, wish.project, wish.interactive, wish.spec.model)
        if lane in wanted and conn.scalar(select(lanes.c.id).where(lanes.c.id == lane)) is None:
            cls = LaneClass.INTERACTIVE if wish.interactive else LaneClass.BULK
            conn.execute(
                insert(lanes).values(
                    id=lane, owner=wish.owner, project=wish.project, cls=cls, model=wish.spec.model
                )
            )
    for owner, name in {(row["owner"], row["batch"]) for row in fresh}:
        if name is None:
            continue
        there = select(batches.c.name).where(batches.c.owner == owner, batches.c.name == name)
        if conn.scalar(there) is None:
            conn.execute(insert(batches).values(owner=owner, name=name, created_at=farm_now()))
            outbox.append(conn, [("batch", name, {"owner": owner})])
    for lane in sorted({row["lane"] for row in fresh if row["state"] is JobState.QUEUED}):
        wake_lane(conn, lane)
    conn.execute(insert(jobs).values(created_at=farm_now(), updated_at=farm_now()), fresh)


def _read(conn: Connection, ids: set[str]) -> dict[str, Job]:
    return {
        row["id"]: rows.job(row)
        for chunk in _chunks(sorted(ids))
        for row in conn.execute(rows.select_jobs().where(jobs.c.id.in_(chunk))).mappings()
    }


def _announce(conn: Connection, created: Iterable[tuple[Job, Sequence[Dependency]]]) -> None:
    """A new job's event carries what a list shows of it, so that a page can draw it without asking."""
    outbox.append(
        conn,
        [
            ("job", job.id, {**dict(_first_news(job)), "depends_on": [one.needs for one in needs]})
            for job, needs in created
        ],
    )


def _first_news(job: Job) -> Iterator[tuple[str, Any]]:
    for name in (
        "state", "epoch", "owner", "project", "batch", "lane", "priority", "created_at", "not_before",
    ):  # fmt: skip
        yield name, getattr(job, name)
    for name in ("model", "prompt", "width", "height", "frames", "fps", "steps", "seed"):
        yield name, getattr(job.spec, name)
    yield "worker", None


def _chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(items), CHUNK):
        yield items[first : first + CHUNK]
