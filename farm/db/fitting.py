"""Which queued jobs a worker may be given: conditions on a row of `jobs`, asked by the claim itself.

What a worker has not said it does not have: a job that requires it waits, it never fails.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Text,
    and_,
    exists,
    false,
    literal,
    or_,
    select,
    true,
)
from sqlalchemy.sql import FromClause

from farm.db.dialect import all_in, farm_now, has_value
from farm.db.tables import jobs, nodes, quarantines, workers
from farm.domain.states import Wish

GONE = "gone"
HEARD_WITHIN = 30.0  # seconds without a heartbeat after which a worker is not counted on


@dataclass(frozen=True)
class _Has:
    """What a worker has, as columns of its row or as values that were read from it."""

    weights: ColumnElement[bool]  # of the job in question
    tags: ColumnElement[Any]
    pool: ColumnElement[Any]
    memory: ColumnElement[Any]
    gpus: ColumnElement[Any]


def takes(conn: Connection, worker_id: str, resident: Sequence[str] = ()) -> ColumnElement[bool]:
    """This worker may be given the job now. `resident`: digests in its memory."""
    me = conn.execute(select(workers).where(workers.c.id == worker_id)).one_or_none()
    if me is None:
        return false()
    # Values and not columns: this is asked of every row from the head of the lane on.
    weights = true()  # it has not said what it has: it finds out by trying
    if me.available is not None:
        weights = jobs.c.model_digest.in_(sorted({*me.available.values(), *me.models, *resident}))
    mine = _Has(
        weights, literal(json.dumps(me.tags or [])), literal(me.pool, Text()),
        literal(me.memory_total, BigInteger()), literal(me.gpus),
    )  # fmt: skip
    other = workers.alias("other")
    another = exists().where(
        _willing(other), heard(other), ~has_value(jobs.c.avoid, other.c.gpu), _fits(_columns(other))
    )
    return and_(
        or_(jobs.c.rest_until.is_(None), jobs.c.rest_until <= farm_now()),
        _fits(mine),
        # It faulted on this GPU: not there again while another could do it.
        or_(jobs.c.avoid.is_(None), ~has_value(jobs.c.avoid, literal(me.gpu)), ~another),
    )


def willing(worker_id: str) -> ColumnElement[bool]:
    """The worker lives, its operator wants it to run, and its GPU is not in quarantine."""
    me = workers.alias("me")
    return exists().where(me.c.id == worker_id, _willing(me))


def larger_card_lives(job: str, card: int) -> ColumnElement[bool]:
    """Some worker that could render the job has more than `card` bytes; it may be busy, or drained for now."""
    other = workers.alias("other")
    larger = and_(other.c.state != GONE, other.c.memory_total > card)
    return exists().where(jobs.c.id == job, larger, _fits(_columns(other)))


def heard(worker: FromClause) -> ColumnElement[bool]:
    return worker.c.heartbeat_at > farm_now(-HEARD_WITHIN)


def _willing(worker: FromClause) -> ColumnElement[bool]:
    of_node = exists().where(nodes.c.node == worker.c.node, nodes.c.wish != Wish.RUN)
    in_quarantine = exists().where(quarantines.c.gpu == worker.c.gpu, quarantines.c.released_at.is_(None))
    lives = and_(worker.c.state != GONE, worker.c.ended_at.is_(None))
    return and_(worker.c.wish == Wish.RUN, lives, ~of_node, ~in_quarantine)


def _columns(worker: FromClause) -> _Has:
    weights = or_(worker.c.available.is_(None), has_value(worker.c.available, jobs.c.model_digest))
    return _Has(weights, worker.c.tags, worker.c.pool, worker.c.memory_total, worker.c.gpus)


def _fits(has: _Has) -> ColumnElement[bool]:
    """The job's exact weights, and what the job requires."""
    asked = jobs.c.requires
    pool, memory = asked["pool"].as_string(), asked["memory"].as_float()  # no integer of SQL holds so many bytes
    meets = and_(
        all_in(asked["tags"], has.tags),
        or_(pool.is_(None), pool == has.pool),
        or_(memory == 0.0, memory <= has.memory),
        asked["gpus"].as_integer() <= has.gpus,
    )
    return and_(
        has.weights,
        or_(asked.is_(None), meets),
        or_(jobs.c.memory_above.is_(None), has.memory > jobs.c.memory_above),
    )
