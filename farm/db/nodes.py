"""Nodes: whether the agent of each machine lives, and what operators wish of all its workers, now and later."""

import contextlib
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError

from farm.db import outbox, rows
from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.tables import nodes, workers
from farm.domain.errors import NodeNotFound
from farm.domain.states import Wish
from farm.domain.worker import Node


def beat(db: Database, node: str, agent_boot: str) -> None:
    """The node's agent lives: to be said in every round, also where no worker of it does.

    When a worker falls silent, this is how the reaper knows whether it went alone (leases.reap).
    """
    with db.write() as conn:
        _there(conn, node)
        conn.execute(
            update(nodes).where(nodes.c.node == node).values(agent_boot=agent_boot, heartbeat_at=farm_now())
        )


def find(db: Database) -> list[Node]:
    """Every machine that was ever heard of, by name."""
    with db.read() as conn:
        return [rows.node(row) for row in conn.execute(select(nodes).order_by(nodes.c.node)).mappings()]


def get(db: Database, node: str) -> Node:
    """The machine of that name; known from now on, also where only its workers were heard of."""
    with db.write() as conn:
        _there(conn, node)
        return rows.node(conn.execute(select(nodes).where(nodes.c.node == node)).mappings().one())


def wish(
    db: Database, node: str, wanted: Wish, by: str = "somebody", reason: str | None = None, now: bool = False
) -> Node:
    """For every worker of this machine, also those that begin later. RUN takes it back. See workers.wish.

    Raises NodeNotFound.
    """
    with db.write() as conn:
        if conn.scalar(select(workers.c.id).where(workers.c.node == node).limit(1)) is None:
            heard = select(nodes.c.node).where(nodes.c.node == node)
            if conn.scalar(heard) is None:
                raise NodeNotFound(f"there is no node {node!r}", "see them with: farm workers")
        _there(conn, node)
        values = {"wish": wanted, "wish_by": by, "wish_reason": reason, "wish_now": now, "wish_at": farm_now()}
        stmt = update(nodes).where(nodes.c.node == node).values(**values).returning(nodes)
        row = conn.execute(stmt).mappings().one()
        outbox.append(conn, [_news(row)])
        return rows.node(row)


def restarted(db: Database, node: Node) -> bool:
    """Its workers have all restarted since that wish, which is over. False: people wish something else by now."""
    with db.write() as conn:
        over: dict[str, Any] = {
            "wish": Wish.RUN, "wish_by": "the dispatcher", "wish_reason": "its workers have restarted",
            "wish_now": False, "wish_at": farm_now(),
        }  # fmt: skip
        still = (nodes.c.node == node.node) & (nodes.c.wish == Wish.RESTART) & (nodes.c.wish_at == node.wish_at)
        row = conn.execute(update(nodes).where(still).values(**over).returning(nodes)).mappings().one_or_none()
        if row is not None:
            outbox.append(conn, [_news(row)])
        return row is not None


def _there(conn: Connection, node: str) -> None:
    if conn.scalar(select(nodes.c.node).where(nodes.c.node == node)) is None:
        with contextlib.suppress(IntegrityError), conn.begin_nested():  # another may be doing the same
            conn.execute(insert(nodes).values(node=node))


def _news(row: RowMapping) -> tuple[str, str, dict[str, Any]]:
    fields = ("wish", "wish_at", "wish_by", "wish_reason", "wish_now", "heartbeat_at")
    return "node", row["node"], {name: row[name] for name in fields}
