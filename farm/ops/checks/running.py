"""The farm of this folder, if it is up: its processes, and what Ray says of the cluster's nodes."""

import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass

from farm.cluster import ray_node
from farm.cluster.lock import FarmStatus
from farm.db import workers
from farm.db.engine import open_database
from farm.ops.checks.child import Said, ask
from farm.ops.checks.finding import Finding, failed, ok, warning
from farm.settings import Settings

_PATIENCE = 20.0  # seconds for Ray's head to answer
_RESTLESS = 3  # restarts of a child that are worth a look


@dataclass(frozen=True)
class Node:
    """slots: render slots by name; empty on a server that does not render itself."""

    address: str
    alive: bool
    slots: tuple[str, ...]


def check_processes(status: FarmStatus, home: str) -> Finding:
    if not status.running:
        return ok("farm", f"none is running on {home}")
    restless = [f"{child.name} {child.restarts} times" for child in status.children if child.restarts >= _RESTLESS]
    if not status.ready:
        return warning("farm", f"running (pid {status.pid}) but not ready", f"wait, then look into {home}/logs")
    if restless:
        return warning("farm", f"running (pid {status.pid}); restarted: {', '.join(restless)}", f"see {home}/logs")
    return ok("farm", f"running (pid {status.pid}): {', '.join(child.name for child in status.children)}")


def read_nodes(
    settings: Settings, ask: Callable[[str, float, dict[str, str]], Said] = ask
) -> tuple[list[Node], str]:
    """The nodes, or why Ray does not answer. Only for a farm that runs."""
    address = ray_node.address_here(settings)
    if address is None:
        return [], "it has not started"
    environment = {
        **os.environ, **ray_node.ray_environment(ray_node.as_started(settings, address)),
        "PYTHONPATH": ray_node.import_path(),
    }  # fmt: skip
    said = ask(
        f"from farm.cluster.ray_node import tell_nodes; tell_nodes({json.dumps(address)})", _PATIENCE, environment
    )
    if said.value is None:
        return [], said.fault
    return [Node(n["address"], n["alive"], tuple(n["slots"])) for n in said.value["nodes"]], ""


def read_staffed(database_url: str) -> set[str]:
    """Devices whose worker this database knows. Raises FarmError."""
    db = open_database(database_url, busy_timeout=5.0)
    try:
        return {worker.gpu for worker in workers.find(db, gone_within=0.0)}
    finally:
        db.close()


def check_nodes(nodes: list[Node], fault: str, staffed: Collection[str]) -> Finding:
    """`staffed`: devices whose worker the database knows."""
    if fault:
        return failed(
            "nodes", f"Ray does not answer: {fault}", "its output is in logs/ray.out of the farm's folder"
        )
    living = [node for node in nodes if node.alive]
    slots = sum(len(node.slots) for node in living)
    said = f"{len(living)} alive with {slots} render slot{'' if slots == 1 else 's'}"
    if not slots:
        return warning("nodes", said, "let one join: farm worker --join ...")
    idle = sorted(s for node in living for s in node.slots if s.removeprefix("gpu:") not in staffed)
    if idle:
        return warning(
            "nodes", f"{said}; the database knows no worker on {', '.join(idle)}",
            "give it a moment; then see logs/worker-*.log on that node, and compare its FARM_DATABASE_URL",
        )  # fmt: skip
    lost = [node.address for node in nodes if not node.alive]
    if lost:
        return ok("nodes", f"{said}; left since the farm started: {', '.join(lost)}")
    return ok("nodes", said)
