"""The farm of this folder, if it is up: its processes, and what Ray says of the cluster's nodes."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass

from farm.cluster import ray_node
from farm.cluster.lock import FarmStatus
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


def check_nodes(nodes: list[Node], fault: str) -> Finding:
    if fault:
        return failed(
            "nodes", f"Ray does not answer: {fault}", "its output is in logs/ray.out of the farm's folder"
        )
    living = [node for node in nodes if node.alive]
    slots = sum(len(node.slots) for node in living)
    said = f"{len(living)} alive with {slots} render slots"
    if not slots:
        return warning("nodes", said, "let one join: farm worker --join ...")
    lost = [node.address for node in nodes if not node.alive]
    if lost:
        return ok("nodes", f"{said}; left since the farm started: {', '.join(lost)}")
    return ok("nodes", said)
