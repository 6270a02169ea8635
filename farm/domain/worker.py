"""A worker: one process that owns one device and keeps one model resident."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from farm.domain.job import Progress
from farm.domain.states import Wish


@dataclass(frozen=True)
class Load:
    """How hard a device works; None: it does not say. What a GPU tells of itself; of a CPU, the worker's share.

    utilisation in percent, memory in bytes in use on the device by anybody, temperature in degrees Celsius, power
    in watts. utilisations, temperatures: of the last ten minutes, the oldest first, `EVERY` seconds apart.
    """

    utilisation: int | None = None
    memory: int | None = None
    temperature: int | None = None
    power: int | None = None
    utilisations: tuple[int, ...] = ()
    temperatures: tuple[int, ...] = ()


def load_of(said: Mapping[str, Any]) -> Load:
    """From its JSON. Raises TypeError for anything else."""
    fields: dict[str, Any] = dict(said)
    for name in ("utilisations", "temperatures"):
        fields[name] = tuple(fields[name])
    return Load(**fields)


@dataclass(frozen=True)
class NewWorker:
    """`id` is a boot id, new for every process; `gpu` is the device's uuid, or `cpu:<node>:<n>`.

    What jobs may require of it: tags, a pool, memory_total in bytes of its device, the number of its gpus.
    """

    id: str
    node: str
    gpu: str
    device_name: str
    pid: int
    tags: tuple[str, ...] = ()
    pool: str | None = None
    memory_total: int | None = None
    gpus: int = 1


@dataclass(frozen=True)
class Worker:
    id: str
    node: str
    gpu: str
    device_name: str
    pid: int
    models: tuple[str, ...]  # digests resident in memory
    wish: Wish
    state: str  # starting | probing | idle | busy | gone
    started_at: datetime
    heartbeat_at: datetime
    jobs_done: int
    memory: int | None  # resident bytes of the process
    available: Mapping[str, str] | None = None  # models it can load, digest by name; None: not said yet
    tags: tuple[str, ...] = ()
    pool: str | None = None
    memory_total: int | None = None
    gpus: int = 1
    # Who wished it, when and why. wish_now: the job in hand is given back at its next step, not finished.
    wish_at: datetime | None = None
    wish_by: str | None = None
    wish_reason: str | None = None
    wish_now: bool = False
    wish_of_node: bool = False  # it is the node's, and holds for every worker on it
    load: Load | None = None  # None: it has not said

    @property
    def digests(self) -> frozenset[str] | None:
        """Of all weights that it holds or can load; None: nobody knows yet."""
        return None if self.available is None else frozenset(self.available.values()) | frozenset(self.models)

    def renders(self, digest: str) -> bool:
        """Whether a job pinned to these weights may be given to it."""
        return self.digests is None or digest in self.digests


@dataclass(frozen=True)
class Node:
    """A machine with workers, as its agent reports it. Its wish holds for every worker on it, now and later.

    agent_boot: new for every agent process; None: nobody has heard of the machine yet.
    """

    node: str
    agent_boot: str | None
    heartbeat_at: datetime | None
    wish: Wish
    wish_at: datetime | None
    wish_by: str | None
    wish_reason: str | None
    wish_now: bool


@dataclass(frozen=True)
class Quarantine:
    """A GPU that is set aside. `by`: a person, or "faults". until None: only a person releases it; otherwise a
    probe may, from then on. times: how often in a row, each lasts twice as long.
    """

    gpu: str
    node: str
    reason: str
    by: str
    since: datetime
    until: datetime | None
    times: int
    probes: int
    last_probe_at: datetime | None
    last_probe: str | None
    released_at: datetime | None = None
    released_by: str | None = None


@dataclass(frozen=True)
class Beat:
    """What a worker tells its node agent every second; the agent renews the lease from it."""

    worker: str
    job: str | None
    epoch: int
    progress: Progress | None
    models: tuple[str, ...]
    state: str
    memory: int | None
    jobs_done: int
    load: Load | None = None
