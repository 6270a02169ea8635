"""A farm of several machines: `farm serve` is the server, `farm worker` a render node that joins it.

The machines share three things: the database, the store, and a token without which Ray admits nobody. A node
reaches database and store by settings of its own, so no secret is on a command line or goes through Ray.

A SQLite file and a folder made by default can serve nodes on the server's own machine only: SQLite's locks and
its write-ahead log need one kernel (a file on a network share would be damaged, and quietly). So a node of
another machine needs Postgres; its store may be S3, or a folder that is mounted there already.
"""

import hashlib
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from farm.cluster import ray_node
from farm.cluster.children import ChildSpec, children_of_node, children_of_server
from farm.cluster.front_door import refuse_without_sign_in
from farm.cluster.poke import is_listening
from farm.cluster.slots import slots_here
from farm.cluster.supervisor import (
    Goal,
    Supervisor,
    folder_held,
    probe_model,
    probe_port,
    probe_store,
    until_page_answers,
)
from farm.db.engine import check_schema, migrate, open_database
from farm.domain.address import is_loopback
from farm.domain.errors import FarmError, FarmUnreachable, InvalidRequest
from farm.settings import Settings
from farm.storage.store import open_store

_KNOCK = 5.0  # seconds until a server that does not answer is called unreachable
_SQLITE = "sqlite:///"

_RAYS_OWN_PORTS = range(10002, 20000)  # of its worker processes, where nobody says otherwise


class JoinRefused(FarmError):
    code = "join_refused"


@dataclass(frozen=True)
class Server:
    """Where a node joins: the address of the server's Ray, and our own address as the server sees it."""

    host: str
    port: int
    own_address: str

    @property
    def is_this_machine(self) -> bool:
        return self.host == self.own_address or is_loopback(self.host)


def serve(
    settings: Settings,
    say: Callable[[str], None] = print,
    children: Callable[[Settings], Sequence[ChildSpec]] = children_of_server,
) -> None:
    """Runs the server until SIGINT or SIGTERM: Ray's head, API, dispatcher; workers only if asked for.

    Raises NoSignIn, InvalidRequest, and whatever `up` raises.
    """
    settings = settings.model_copy(
        update={
            "workers": settings.workers or 0, "ray_address": f"{settings.listen}:{settings.ray_port}",
            "token_file": settings.token_file or str(ray_node.shared_token(settings)),
        }
    )  # fmt: skip
    refuse_without_sign_in(settings)
    if settings.ray_port in _RAYS_OWN_PORTS:
        raise InvalidRequest(
            f"Ray gives port {settings.ray_port} to its own workers",
            f"choose one below {_RAYS_OWN_PORTS.start} or above {_RAYS_OWN_PORTS.stop - 1} with --ray-port",
            field="ray_port",
        )
    if not is_loopback(settings.listen):
        _refuse_what_stays_here(settings)
    probe_model(settings)
    with folder_held(settings) as (lock, log):
        settings = settings.with_auth_in_file()
        probe_port(settings.host, settings.port, "--port")
        probe_port(settings.listen, settings.ray_port, "--ray-port")
        probe_store(settings)
        if ray_node.keep_token(settings):
            log.info("token_made", file=settings.token_file)
        log.info("migrated", revision=migrate(settings.database_url))
        goal = until_page_answers(settings, how_to_join(settings))
        Supervisor(settings, children(settings), lock, say, log).run(goal)


def work(
    settings: Settings,
    join: str,
    say: Callable[[str], None] = print,
    children: Callable[[Settings], Sequence[ChildSpec]] = children_of_node,
) -> None:
    """Runs a render node of the server at `join` (HOST or HOST:PORT) until SIGINT or SIGTERM.

    Raises InvalidRequest, FarmUnreachable, JoinRefused, ChildCannotStart, and the errors of database and store.
    """
    server = _find(join, settings)
    settings = settings.model_copy(
        update={
            "ray_address": f"{server.host}:{server.port}",
            "listen": server.own_address if settings.listen == ray_node.LOOPBACK else settings.listen,
            "token_file": settings.token_file or str(ray_node.shared_token(settings)),
            "node": settings.node or _own_name(settings),
        }
    )
    ray_node.check_token(settings)
    if not (slots := slots_here(settings)):
        raise InvalidRequest("this node has nothing to render with", "leave --workers out, or raise it")
    _need_shared_database(settings, server)
    _need_shared_store(settings, server)
    with folder_held(settings) as (lock, log):
        _knock(server)
        many = "1 worker" if len(slots) == 1 else f"{len(slots)} workers"
        said = f"Joined the farm at {settings.ray_address} as {settings.node_name} with {many}"
        out = settings.log_dir / "ray.out"
        begin = out.stat().st_size if out.exists() else 0
        goal = Goal(lambda: _has_joined(settings, server, out, begin), said)
        Supervisor(settings, children(settings), lock, say, log).run(goal)


def how_to_join(settings: Settings) -> str:
    """For the person at the server: what to type on a node, without any secret."""
    here = settings.listen == ray_node.LOOPBACK
    join = f"farm worker --join {settings.ray_address}"
    if here:
        shared = f"FARM_DATABASE_URL={settings.database_url} FARM_STORE={settings.store} "
        if "@" in settings.database_url:
            shared = "FARM_DATABASE_URL=... FARM_STORE=... "
        return "\n".join((
            "Render nodes on this machine join with (each with a folder of its own):",
            f"  {shared}{join} --token-file {settings.token_file} --home FOLDER",
            "Nodes on other machines: start it with --listen ADDRESS.",
        ))  # fmt: skip
    return "\n".join((
        "Render nodes join with:",
        f"  {join} --token-file TOKEN",
        f"TOKEN is a copy of {settings.token_file} (chmod 600); FARM_DATABASE_URL and FARM_STORE must be set there"
        " as they are here.",
        f"Ray listens on every interface of this machine (port {settings.ray_port} and others), guarded"
        " by the token: keep it inside a private network."
        + ("" if settings.is_public else " The page stays on this machine."),
    ))  # fmt: skip


def _own_name(settings: Settings) -> str:
    """The host name is not enough: clones share it, and one machine may run several nodes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        boot = str(os.getppid())
    return f"{socket.gethostname()}-{hashlib.sha256(f'{boot}{settings.home}'.encode()).hexdigest()[:4]}"


def _refuse_what_stays_here(settings: Settings) -> None:
    if settings.database_url.startswith(_SQLITE):
        raise InvalidRequest(
            "nodes on other machines cannot use a SQLite file",
            "set FARM_DATABASE_URL to a Postgres (postgresql://user@host/name), or leave --listen out",
            field="database_url",
        )


def _find(join: str, settings: Settings) -> Server:
    host, colon, port = join.rpartition(":")
    host, number = (host, port) if colon else (join, str(settings.ray_port))
    if not host or not number.isdecimal() or not 0 < int(number) < 65536:
        raise InvalidRequest(f"{join!r} is no HOST or HOST:PORT", "for example: --join 10.0.0.5", field="join")
    try:
        address = str(socket.getaddrinfo(host, int(number), socket.AF_INET)[0][4][0])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, int(number)))  # sends nothing; the system chooses the way
            own = str(probe.getsockname()[0])
    except OSError as error:
        raise FarmUnreachable(
            f"{host} cannot be found: {error.strerror}", "check the name given to --join"
        ) from error
    return Server(address, int(number), own)


def _knock(server: Server) -> None:
    try:
        socket.create_connection((server.host, server.port), _KNOCK).close()
    except OSError as error:
        there = "farm serve" if server.is_this_machine else f"farm serve --listen {server.host}"
        raise FarmUnreachable(
            f"no farm server answers at {server.host}:{server.port}: {error.strerror or error}",
            f"start it there with `{there}`, or check host, port and firewall",
        ) from error


def _need_shared_database(settings: Settings, server: Server) -> None:
    """The server's, at the schema of this version. A node never makes or migrates one."""
    what = "set FARM_DATABASE_URL (or database_url in farm.toml) to what the server uses"
    if settings.database_url.startswith(_SQLITE):
        if not server.is_this_machine:
            raise InvalidRequest(
                "a node on another machine than the server cannot use a SQLite file",
                f"{what}: a Postgres",
                field="database_url",
            )
        if not Path(settings.database_url.removeprefix(_SQLITE)).exists():
            raise InvalidRequest(f"there is no database {settings.database_url}", what, field="database_url")
    db = open_database(settings.database_url)
    try:
        check_schema(db)
    finally:
        db.close()


def _need_shared_store(settings: Settings, server: Server) -> None:
    folder = settings.store.removeprefix("file://")
    if "://" not in folder and not Path(folder).is_dir():
        kind = "" if server.is_this_machine else ": s3://..., or a folder mounted here"
        raise InvalidRequest(
            f"there is no store {folder} on this machine",
            f"set FARM_STORE (or store in farm.toml) to what the server uses{kind}",
            field="store",
        )
    open_store(settings.store)


def _has_joined(settings: Settings, server: Server, ray_output: Path, begin: int) -> bool:
    """Ray says in its output only whether it was admitted, and tries on for long if it was not."""
    with ray_output.open("rb") as file:
        file.seek(begin)
        said = file.read().decode(errors="replace")
    if "InvalidAuthToken" in said:
        raise JoinRefused(
            f"the farm at {server.host}:{server.port} does not accept the token in {settings.token_file}",
            "copy the server's token file there again: `farm serve` names it when it starts",
        )
    return "Ray runtime started" in said and is_listening(settings.agent_socket)
