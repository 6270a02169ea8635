"""`farm up`, `farm down`, `farm status` of one machine: children are started, kept alive, and all ended.

`farm serve` and `farm worker` (nodes.py) are other sets of children under the same supervisor.
"""

import contextlib
import errno
import http.client
import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from farm.cluster import processes, ray_node
from farm.cluster.children import Child, ChildSpec, children_of
from farm.cluster.front_door import refuse_without_sign_in
from farm.cluster.lock import FarmLock, FarmStatus, end_leftovers, is_held, read_status
from farm.db.engine import migrate
from farm.domain.errors import FarmError, FolderUnusable, InvalidRequest, PortInUse
from farm.domain.request import Models
from farm.ops.logging import Log, start_log
from farm.settings import Settings
from farm.storage.store import open_store
from model.library import Library

_TRIES = 3  # deaths of a child before the farm was ever ready, after which it gives up
_START_PATIENCE = 120.0  # seconds until ready
_DOWN_PATIENCE = 45.0  # seconds that `down` waits before it kills


class ChildCannotStart(FarmError):
    code = "cannot_start"


def up(
    settings: Settings,
    say: Callable[[str], None] = print,
    children: Callable[[Settings], Sequence[ChildSpec]] = children_of,
) -> None:
    """Runs the farm in this process until SIGINT or SIGTERM. `children` is for tests.

    Raises NoSignIn, UnknownModel, FolderInUse, FolderUnusable, PortInUse, StorageUnavailable, SchemaOutdated,
    ChildCannotStart.
    """
    refuse_without_sign_in(settings)
    probe_model(settings)
    if not settings.with_servers and (settings.home / "servers").exists():
        say(f"{settings.home} has servers of its own from an earlier `farm up --with-servers`: not used this time")
    with folder_held(settings) as (lock, log):
        settings = settings.with_auth_in_file()
        probe_port(settings.host, settings.port, "--port")
        with _servers_beside(settings, log) as (settings, beside):
            probe_store(settings)
            settings = settings.model_copy(
                update={"ray_address": f"{ray_node.LOOPBACK}:{ray_node.free_port()}", "listen": ray_node.LOOPBACK}
            )
            ray_node.make_token(settings)
            log.info("migrated", revision=migrate(settings.database_url))
            goal = until_page_answers(settings)
            Supervisor(settings, children(settings), lock, say, log, beside).run(goal)


@contextmanager
def folder_held(settings: Settings) -> Generator[tuple[FarmLock, Log]]:
    """The farm's folder, writable and nobody else's, rid of what an earlier supervisor has left there."""
    settings.make_folders()
    _probe_folder(settings)
    lock = FarmLock(settings)
    try:
        log = start_log("supervisor", settings.log_dir, settings.log_level)
        if lock.before is not None:
            log.info("leftovers_ended", children=end_leftovers(lock.before.children))
        # The session folders of Rays that are gone; while the farm is down they serve to look what was wrong.
        shutil.rmtree(settings.ray_dir, ignore_errors=True)
        (settings.run_dir / "ray-token").unlink(missing_ok=True)
        settings.make_folders()
        yield lock, log
    finally:
        (settings.run_dir / "auth").unlink(missing_ok=True)  # see Settings.with_auth_in_file
        settings.remove_fallback_folders()
        lock.release()


@dataclass(frozen=True)
class Goal:
    """When all is as it should be, and what is said then. `reached` may raise what makes waiting useless."""

    reached: Callable[[], bool]
    say: str


def until_page_answers(settings: Settings, more: str = "") -> Goal:
    """`more`: further lines for the person who started it."""
    line = f"Running on local URL: {settings.url}"
    return Goal(lambda: _answers_ready(settings), f"{line}\n{more}" if more else line)


@dataclass(frozen=True)
class Down:
    """What `down` found and did, in a sentence; `was_running` False: there was nothing to stop."""

    was_running: bool
    killed: bool
    message: str


def down(settings: Settings, patience: float = _DOWN_PATIENCE) -> Down:
    """Stops the farm on this folder, from another process. Nothing of it runs when this returns."""
    status = read_status(settings)
    if not status.running:
        ended = end_leftovers(status.children)
        also = f"; ended what an earlier one had left: {', '.join(ended)}" if ended else ""
        return Down(False, False, f"nothing is running on {settings.home}{also}")
    is_node = status.children and all(child.name != "api" for child in status.children)
    what = f"the {'render node' if is_node else 'farm'} on {settings.home} (pid {status.pid})"
    with contextlib.suppress(ProcessLookupError):
        os.kill(status.pid, signal.SIGTERM)
    if processes.wait_until(lambda: not is_held(settings), patience):
        return Down(True, False, f"{what} is down")
    with contextlib.suppress(ProcessLookupError):
        os.kill(status.pid, signal.SIGKILL)
    processes.wait_until(lambda: not is_held(settings), 5.0)
    end_leftovers(read_status(settings).children)
    return Down(True, True, f"{what} did not stop and was killed")


def status(settings: Settings) -> FarmStatus:
    """The processes of the farm on this folder; readable from any process of this user."""
    return read_status(settings)


class Supervisor:
    """One thread. It knows processes only: jobs are none of its business."""

    def __init__(
        self,
        settings: Settings,
        specs: Sequence[ChildSpec],
        lock: FarmLock,
        say: Callable[[str], None],
        log: Log,
        beside: Sequence[Child] = (),
    ) -> None:
        """`beside`: what runs already, is needed by the others, and ends after them."""
        environment = {
            **os.environ, **settings.environment(), **ray_node.ray_environment(settings),
            "PYTHONPATH": ray_node.import_path(),
        }  # fmt: skip
        self._settings = settings
        self._children = {child.spec.name: child for child in beside}
        self._children |= {spec.name: Child(spec, settings, environment, log) for spec in specs}
        self._lock = lock
        self._say = say
        self._log = log
        self._began = datetime.now(UTC)
        self._ready = False
        self._signals = 0
        self._written: FarmStatus | None = None
        self._not_ours: set[int] = set()

    def run(self, goal: Goal) -> None:
        processes.adopt_orphans()
        self._not_ours = set(processes.own_children())
        stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._signalled) for number in stops}
        try:
            self._keep(goal)
        finally:
            self._stop()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, *_: Any) -> None:
        self._signals += 1

    def _keep(self, goal: Goal) -> None:
        deadline = time.monotonic() + _START_PATIENCE
        while not self._signals:
            for child in self._children.values():
                if child.look():
                    self._died(child)
            processes.reap_orphans({child.pid or 0 for child in self._children.values()})
            self._write()
            if not self._ready:
                self._ready = goal.reached()
                if self._ready:
                    self._write()
                    self._log.info(goal.say.partition("\n")[0], url=self._settings.url)
                    self._say(goal.say)
                elif time.monotonic() > deadline:
                    raise ChildCannotStart(
                        f"it was not ready after {_START_PATIENCE:.0f} s",
                        f"look into {self._settings.log_dir}",
                    )
            time.sleep(0.1)

    def _died(self, child: Child) -> None:
        if not self._ready and child.deaths >= _TRIES:
            raise ChildCannotStart(
                f"{child.spec.name} cannot start: {child.last_words()}", f"its output is in {child.output}"
            )
        for name in child.spec.takes_along:
            self._children[name].restart()

    def _stop(self) -> None:
        """The last that were started first: no new work, then jobs are given back, then the rest."""
        self._log.info("stopping")
        for name in reversed(self._children):
            self._children[name].stop(hurry=self._signals > 1)
        # Whoever was adopted and had left its session.
        deadline = time.monotonic() + 5
        while (left := self._orphans()) and time.monotonic() < deadline:
            processes.send(left, signal.SIGKILL)
            processes.reap_orphans(set())
            time.sleep(0.02)
        for path in (self._settings.agent_socket, self._settings.dispatcher_socket):
            path.unlink(missing_ok=True)
        self._log.info("stopped", left=self._orphans())

    def _orphans(self) -> list[int]:
        return [pid for pid in processes.own_children() if pid not in self._not_ours]

    def _write(self) -> None:
        children = tuple(s for child in self._children.values() if (s := child.status()) is not None)
        now = FarmStatus(True, self._ready, os.getpid(), self._settings.url, self._began, children)
        if now != self._written:
            self._written = now
            try:
                self._lock.write(now)
            except OSError as error:  # a disk in trouble is no reason to end the farm
                self._log.warning("status_not_written", error=str(error))


def _answers_ready(settings: Settings) -> bool:
    host = settings.url.removeprefix("http://").rpartition(":")[0].strip("[]")
    connection = http.client.HTTPConnection(host, settings.port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def probe_model(settings: Settings) -> None:
    """A farm whose own model is not here would refuse every job."""
    library = Library(settings.models)
    Models({preset.name: preset for preset in library.installed()}, settings.model, library.digest).choose(None)


@contextmanager
def _servers_beside(settings: Settings, log: Log) -> Generator[tuple[Settings, Sequence[Child]]]:
    """With `with_servers`, settings that name the servers started here, and their processes; they end with this."""
    if not settings.with_servers:
        yield settings, ()
        return
    from farm.cluster import servers  # here: few farms have them

    if settings.database_url != f"sqlite:///{settings.home / 'farm.db'}":
        raise InvalidRequest(
            "--with-servers brings a database of its own, and another one is set",
            "leave out --with-servers, or unset FARM_DATABASE_URL",
            field="with_servers",
        )
    made, started = servers.start(settings.home, settings, log)
    os.environ.update(made.seaweedfs.credentials)  # where every S3 client looks, the children's too
    try:
        address = {"database_url": made.postgres.url, "store": made.seaweedfs.url}
        yield settings.model_copy(update=address), started
    finally:
        for child in reversed(started):
            child.stop()  # unless the supervisor has done it


def probe_store(settings: Settings) -> None:
    """Rights to write are missed at the first video otherwise."""
    store = open_store(settings.store)
    store.check()
    key = f"probe/{secrets.token_hex(4)}"
    store.put_bytes(key, b"?")
    store.delete([key])


def _probe_folder(settings: Settings) -> None:
    """A database on a disk without room would fail later and less clearly."""
    probe = settings.run_dir / f"probe-{secrets.token_hex(4)}"
    try:
        with probe.open("wb") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise FolderUnusable(
            f"the farm's folder {settings.home} cannot be written: {error.strerror}",
            "free some space, or choose another folder with --home",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def probe_port(host: str, port: int, option: str) -> None:
    """Raises PortInUse naming its owner; `option` is the flag that chooses another."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen()
    except PermissionError as error:
        raise InvalidRequest(
            f"port {port} needs privileges", f"choose a port above 1023 with {option}", field="port"
        ) from error
    except socket.gaierror as error:
        raise InvalidRequest(f"host {host!r} is no address of this machine", field="host") from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidRequest(f"host {host!r} is no address of this machine", field="host") from error
        owner = processes.port_owner(port)
        raise PortInUse(
            f"port {port} on {host} is in use" + (f" by {owner}" if owner else ""),
            f"stop that program, or choose another port with {option}",
            field="port",
        ) from error
