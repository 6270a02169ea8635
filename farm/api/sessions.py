"""The cookie of a browser that has signed in: signed, not secret, and good for a week. Nothing here does I/O."""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from farm.domain.person import Role

LIFE = 7 * 86400  # seconds


@dataclass(frozen=True)
class Session:
    """`proof` says by what it was opened, so that it ends with that: `token:PREFIX` or `password:FINGERPRINT`."""

    id: str
    name: str
    role: Role
    proof: str
    ends_at: int  # unix seconds


class Sessions:
    """Reads and writes cookies with one key. Who has the key can sign in as anybody."""

    def __init__(self, key: bytes, now: Callable[[], float] = time.time) -> None:
        self._key = key
        self._now = now
        # Cookies are shared by all ports of a host: two farms there must not take each other's.
        self.cookie = f"farm-{self.mac('cookie')[:8]}"

    def open(self, name: str, role: Role, proof: str) -> Session:
        return Session(secrets.token_hex(8), name, role, proof, int(self._now()) + LIFE)

    def write(self, session: Session) -> str:
        said = [session.id, session.name, session.role.value, session.proof, session.ends_at]
        text = base64.urlsafe_b64encode(json.dumps(said).encode()).decode()
        return f"{text}.{self.mac(text)}"

    def read(self, cookie: str) -> Session | None:
        """None: not ours, changed on the way, or over."""
        text, _, mac = cookie.rpartition(".")
        if not text or not hmac.compare_digest(mac.encode(), self.mac(text).encode()):
            return None
        try:
            said = cast("list[Any]", json.loads(base64.urlsafe_b64decode(text)))
            session = Session(said[0], said[1], Role(said[2]), said[3], said[4])
        except (binascii.Error, ValueError, IndexError):  # of another version of this farm
            return None
        return session if session.ends_at > self._now() else None

    def form_token(self, session: Session) -> str:
        """What a page of this session carries, and no page of another site can know."""
        return self.mac(f"form:{session.id}")

    def same(self, token: str, given: str) -> bool:
        return hmac.compare_digest(token.encode(), given.encode())

    def fingerprint(self, digest: bytes) -> str:
        """Of a password: it names it without helping to guess it."""
        return self.mac(f"password:{digest.hex()}")[:16]

    def mac(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()
