"""`python -m farm.api.server`: the API and the page as one process. Never imports ray or torch."""

import contextlib
import functools
import logging
import os
import secrets
import socket
import sys
import tempfile
from types import FrameType

import uvicorn

from farm.api.app import create_app
from farm.api.offer import Offer
from farm.api.services import Services
from farm.api.sessions import Sessions
from farm.cluster.front_door import refuse_without_sign_in
from farm.cluster.poke import dispatcher_listens, poke
from farm.cluster.policies import stall_limits
from farm.db.engine import check_schema, open_database
from farm.domain.errors import FarmError, PortInUse
from farm.settings import Settings, load_settings
from farm.storage.store import open_store
from model.library import Library

log = logging.getLogger("farm.api")

GRACE = 3  # seconds that open requests get when the server stops


class Server(uvicorn.Server):
    """Ends the event streams first: they would keep a graceful stop waiting for ever."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._services.stopping.set()
        super().handle_exit(sig, frame)


def build_services(settings: Settings) -> Services:
    """Opens the database and the store of these settings. Raises FarmError."""
    db = open_database(settings.database_url, impatient=True)
    check_schema(db)
    offer = Offer(db, Library(settings.models), settings.model)
    return Services(
        db=db,
        store=open_store(settings.store),
        models_now=offer.now,
        poke=functools.partial(poke, settings, db),
        stall_limits=stall_limits(settings),
        store_redirect=settings.store_redirect,
        dispatcher_alive=functools.partial(dispatcher_listens, settings),
        hosts=tuple({"127.0.0.1", "localhost", "::1", settings.host, *settings.host_names}),
        any_host=settings.is_public and not settings.host_names,
        log_dir=settings.log_dir,
        passwords=settings.passwords(),
        sessions=Sessions(session_key(settings)),
        public=settings.is_public,
        artists_change_all=settings.artists_change_all,
    )


def session_key(settings: Settings) -> bytes:
    """Made once: a restart signs nobody out. Two servers that begin at once agree on the first one's."""
    path = settings.session_key_file
    if not path.exists():
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(scratch, path)
        os.unlink(scratch)
    return bytes.fromhex(path.read_text().strip())


def bind(settings: Settings) -> socket.socket:
    """The listening socket, taken before anything else so that a port in use is said clearly."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise PortInUse(
            f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}",
            "choose another with --port or FARM_PORT, or stop what uses it",
            "port",
        ) from error
    return listening


def main() -> int:
    try:
        settings = load_settings()
        refuse_without_sign_in(settings)
        listening = bind(settings)
        services = build_services(settings)
    except FarmError as error:
        print(f"error {error.code}: {error.message}\n{error.next}", file=sys.stderr)
        return int(error.exit)
    config = uvicorn.Config(
        create_app(services),
        log_level=settings.log_level.lower(),
        access_log=False,
        timeout_graceful_shutdown=GRACE,
        server_header=False,
    )
    try:
        Server(config, services).run([listening])
    finally:
        services.db.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
