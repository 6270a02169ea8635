"""A farm of its own in a temporary folder on loopback, and nothing of it left afterwards."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from farm.cluster import processes, ray_node, supervisor
from farm.cluster.lock import end_leftovers, read_status
from farm.cluster.servers import Servers
from farm.domain.errors import FarmError
from farm.settings import Settings, load_settings
from farm.storage.s3 import S3Store
from farm.storage.store import Store, open_store

# Short, so that freezes outlive leases within minutes; long enough for a machine with few cores under load.
_LEASE_TTL, _RENEW_EVERY, _BEAT_EVERY = 9.0, 3.0, 1.0
_START_PATIENCE = 180.0  # seconds
_STOP_PATIENCE = 60.0


class ChaosFailed(FarmError):
    """The throw-away farm did not even start, or the machine would not let it."""

    code = "chaos_failed"


@dataclass(frozen=True)
class ThrowAway:
    """`settings` name the database and the store that the farm really uses."""

    settings: Settings
    store: Store
    process: "subprocess.Popen[str]"
    said: "deque[str]"

    @property
    def home(self) -> Path:
        return self.settings.home


@contextmanager
def throw_away(workers: int, with_servers: bool) -> Generator[ThrowAway]:
    """Running and ready. Ended however the block is left; its folder stays (see `forget`)."""
    home = Path(tempfile.mkdtemp(prefix="turbofarm-chaos-"))
    home.chmod(0o755)  # Postgres may have to be another user; secrets lie deeper, in closed folders
    settings = load_settings(
        home=home, port=ray_node.free_port(), workers=workers, pipeline="farm.chaos.model:Pipeline",
        lease_ttl=_LEASE_TTL, renew_every=_RENEW_EVERY, beat_every=_BEAT_EVERY, with_servers=with_servers,
        database_url=f"sqlite:///{home / 'farm.db'}", store=str(home / "store"), model="demo-t2v",
    )  # fmt: skip
    # Nothing of the caller's own farm finds its way in.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FARM_", "AWS_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "farm.cli.main", "up"],
        env={**clean, **settings.environment(), "PYTHONPATH": ray_node.import_path()}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
        start_new_session=True, preexec_fn=processes.die_with_parent(),  # safe: no other thread yet
    )  # fmt: skip
    said: deque[str] = deque(maxlen=30)
    ready = threading.Event()
    threading.Thread(target=_read, args=(process, said, ready), daemon=True).start()
    try:
        _wait_ready(process, ready, said)
        yield _as_it_runs(settings, process, said)
    finally:
        _end(settings, process)


def forget(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)


def _as_it_runs(settings: Settings, process: "subprocess.Popen[str]", said: "deque[str]") -> ThrowAway:
    if not settings.with_servers:
        return ThrowAway(settings, open_store(settings.store), process, said)
    servers = Servers.running_below(settings.home)
    address = {"database_url": servers.postgres.url, "store": servers.seaweedfs.url}
    store = S3Store(servers.seaweedfs.url, (servers.seaweedfs.access_key, servers.seaweedfs.secret_key))
    return ThrowAway(settings.model_copy(update=address), store, process, said)


def _read(process: "subprocess.Popen[str]", said: "deque[str]", ready: threading.Event) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line.rstrip())
        if "Running on local URL" in line:
            ready.set()


def _wait_ready(process: "subprocess.Popen[str]", ready: threading.Event, said: "deque[str]") -> None:
    end = time.monotonic() + _START_PATIENCE
    while not ready.wait(0.2):
        if process.poll() is not None or time.monotonic() > end:
            raise ChaosFailed("the farm did not start:\n" + "\n".join(said), "try: farm doctor")


def _end(settings: Settings, process: "subprocess.Popen[str]") -> None:
    """The supervisor ends its children; whatever it should leave is killed here."""
    children = read_status(settings).children
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_PATIENCE)
    if process.poll() is None:
        supervisor.down(settings, patience=1.0)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
    end_leftovers(children)
    settings.remove_fallback_folders()


def note(home: Path, name: str, record: object) -> None:
    """For whoever looks into a kept folder."""
    (home / name).write_text(json.dumps(record, indent=1, default=str), encoding="utf-8")
