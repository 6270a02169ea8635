"""The farm that is beaten: its short leases, and what of it the audit reads."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from farm.cluster import ray_node
from farm.cluster.servers import Servers
from farm.settings import Settings, load_settings
from farm.storage.s3 import S3Store
from farm.storage.store import Store, open_store
from farm.throwaway import Machine, temporary_folder

# Short, so that freezes outlive leases within minutes; long enough for a machine with few cores under load.
_LEASE_TTL, _RENEW_EVERY, _BEAT_EVERY = 9.0, 3.0, 1.0


@dataclass(frozen=True)
class Beaten:
    """`settings` name the database and the store that the farm really uses."""

    settings: Settings
    store: Store
    machine: Machine

    @property
    def home(self) -> Path:
        return self.settings.home


@contextmanager
def beaten(workers: int, with_servers: bool) -> Generator[Beaten]:
    """Running and ready. Ended however the block is left; its folder stays (see `throwaway.forget`)."""
    home = temporary_folder("chaos")
    settings = load_settings(
        home=home, port=ray_node.free_port(), workers=workers, pipeline="farm.chaos.model:Pipeline",
        lease_ttl=_LEASE_TTL, renew_every=_RENEW_EVERY, beat_every=_BEAT_EVERY, with_servers=with_servers,
        database_url=f"sqlite:///{home / 'farm.db'}", store=str(home / "store"), model="demo-t2v",
    )  # fmt: skip
    machine = Machine(settings, ["up"])
    try:
        machine.start()
        yield _as_it_runs(settings, machine)
    finally:
        machine.end()


def note(home: Path, name: str, record: object) -> None:
    """For whoever looks into a kept folder."""
    (home / name).write_text(json.dumps(record, indent=1, default=str), encoding="utf-8")


def _as_it_runs(settings: Settings, machine: Machine) -> Beaten:
    if not settings.with_servers:
        return Beaten(settings, open_store(settings.store), machine)
    servers = Servers.running_below(settings.home)
    address = {"database_url": servers.postgres.url, "store": servers.seaweedfs.url}
    store = S3Store(servers.seaweedfs.url, (servers.seaweedfs.access_key, servers.seaweedfs.secret_key))
    return Beaten(settings.model_copy(update=address), store, machine)
