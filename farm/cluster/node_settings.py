"""Whose options a worker obeys: those of the farm come with it from the dispatcher, all others from its node.

A worker may run on another machine than the dispatcher. The folders, the sockets of the agent, how the
database and the store are reached from there, the cores and the node's name are the node's own: its
supervisor put them into the environment of its raylet, whose processes inherit them (`Settings.environment`).
Only what must be one for the whole farm travels: which model to keep and what implements it, and the times
that leases, beats and renewals agree on. Nothing secret is among them, and no path.
"""

from collections.abc import Mapping
from typing import Any

from farm.settings import Settings, load_settings

FARM_WIDE = (
    "model", "pipeline", "lease_ttl", "renew_every", "beat_every", "crash_cap", "worker_recycle_after",
    "worker_memory_drift", "stall_times", "stall_floor", "stall_loading", "stall_unknown",
    "quarantine_after", "quarantine_seconds", "label_producer", "label_visible",
)  # fmt: skip


def farm_wide(settings: Settings) -> dict[str, Any]:
    """What the dispatcher sends with every worker it employs."""
    return {name: getattr(settings, name) for name in FARM_WIDE}


def settings_here(given: Mapping[str, Any]) -> Settings:
    """The options of this process: the node's, with the farm's own put over them. Raises InvalidRequest."""
    return load_settings(**given)
