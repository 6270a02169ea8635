"""A datagram that says "look now" to this machine's dispatcher and agent; polling stays the guarantee.

Those of other machines hear it through the database, where that passes pokes on.
"""

import contextlib
import socket
from pathlib import Path

from farm.db import pokes
from farm.db.engine import Database
from farm.settings import Settings

POKE = b"poke"


def poke(settings: Settings, db: Database | None = None) -> None:
    """After submit, release, cancel or a finished job. Never raises, never waits for anybody here."""
    for path in (settings.dispatcher_socket, settings.agent_socket):
        send(path, POKE)
    if db is not None:
        pokes.poke(db)


def dispatcher_listens(settings: Settings) -> bool:
    """Whether a dispatcher lives here: it binds its socket once Ray and the database answered."""
    return is_listening(settings.dispatcher_socket)


def is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(str(path))  # refused where only a dead one's file is left
        except OSError:
            return False
    return True


def send(path: Path, message: bytes) -> None:
    """One datagram, or none where nobody listens or the listener is full."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.setblocking(False)
        out.sendto(message, str(path))


def listen(path: Path) -> socket.socket:
    """A bound datagram socket only this user can write to; replaces what a dead process left at `path`."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listening.bind(str(path))
    path.chmod(0o600)
    return listening
