"""Rows become domain objects here, and domain objects JSON."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import RowMapping, Select, select

from farm.db.tables import attempts, events, jobs, leases, nodes, quarantines, tokens, workers
from farm.domain.job import Artifact, Attempt, Event, Job, JobError, JobSpec, Progress, Requires
from farm.domain.person import Token
from farm.domain.states import StageName, Wish
from farm.domain.worker import Node, Quarantine, Worker, load_of

_lease_columns = [leases.c.worker, leases.c.stage, leases.c.k, leases.c.n, leases.c.preview_step]


def select_jobs() -> Select[Any]:
    """Jobs with the progress of their lease, if they have one."""
    return select(jobs, *_lease_columns).select_from(jobs.outerjoin(leases, leases.c.job == jobs.c.id))


def job(r: RowMapping) -> Job:
    return Job(
        id=r["id"],
        spec=JobSpec.from_json(r["spec"]),
        state=r["state"],
        owner=r["owner"],
        project=r["project"],
        batch=r["batch"],
        lane=r["lane"],
        idempotency_key=r["idempotency_key"],
        priority=r["priority"],
        epoch=r["epoch"],
        failures=r["failures"],
        created_at=r["created_at"],
        updated_at=r["updated_at"],
        started_at=r["started_at"],
        finished_at=r["finished_at"],
        not_before=r["not_before"],
        cancel_requested_at=r["cancel_requested_at"],
        artifact=Artifact(**r["artifact"]) if r["artifact"] else None,
        error=JobError(**r["error"]) if r["error"] else None,
        progress=progress(r) if r["worker"] else None,
        tags=r["tags"],
        expanded_prompt=r["expanded_prompt"],
        requires=requires(r["requires"]),
        memory_plan=r["memory_plan"],
        memory_above=r["memory_above"],
        avoid=tuple(r["avoid"] or ()),
        rest_until=r["rest_until"],
        video_removed_at=r["video_removed_at"],
    )


def requires(said: dict[str, Any] | None) -> Requires | None:
    if said is None:
        return None
    return Requires(tuple(said["tags"]), said["pool"], said["memory"], said["gpus"])


def progress(r: RowMapping) -> Progress:
    """A lease that no beat has renewed yet is loading."""
    return Progress(r["stage"] or StageName.LOADING, r["k"], r["n"], r["preview_step"], r["worker"])


def attempt(r: RowMapping) -> Attempt:
    return Attempt(**{column.name: r[column] for column in attempts.c})


_WISH = ("wish", "wish_at", "wish_by", "wish_reason", "wish_now")
_WISH_OF_NODE = [nodes.c[name].label(f"node_{name}") for name in _WISH]


def select_workers() -> Select[Any]:
    """Workers with what is wished of their node."""
    return select(workers, *_WISH_OF_NODE).select_from(workers.outerjoin(nodes, nodes.c.node == workers.c.node))


def worker(r: RowMapping) -> Worker:
    """As `select_workers` reads it. A wish for the worker itself goes before one for its node."""
    said: dict[str, Any] = {column.name: r[column] for column in workers.c if column.name != "ended_at"}
    said["models"] = tuple(r["models"])
    said["tags"] = tuple(r["tags"] or ())
    said["load"] = None if r["load"] is None else load_of(r["load"])
    if r["wish"] is Wish.RUN and r["node_wish"] not in {None, Wish.RUN}:
        said |= {name: r[f"node_{name}"] for name in _WISH} | {"wish_of_node": True}
    return Worker(**said)


def node(r: RowMapping) -> Node:
    said: dict[str, Any] = {column.name: r[column] for column in nodes.c}
    said["wish"] = r["wish"] or Wish.RUN
    return Node(**said)


def quarantine(r: RowMapping) -> Quarantine:
    return Quarantine(**{column.name: r[column] for column in quarantines.c})


def token(r: RowMapping) -> Token:
    return Token(**{column.name: r[column] for column in tokens.c})


def event(r: RowMapping) -> Event:
    return Event(**{column.name: r[column] for column in events.c})


def plain(value: object) -> Any:
    """A column's value as the outbox spells it: times in RFC 3339, UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value
