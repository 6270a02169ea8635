"""Who asks, and what they may do: people, roles, and the tokens and passwords that speak for them. No I/O."""

import hashlib
import hmac
import re
import secrets
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from farm.domain.errors import InvalidRequest

_LONGEST_NAME = 60
_TOKEN = re.compile(r"(farm_[a-z2-7]{8})_[A-Za-z0-9_-]{43}")
_LINE = re.compile(r"(?:(artist|operator|admin)[ \t]+)?([^\s:]+):(.+)")


class Role(StrEnum):
    """Each may what the one before may: artists their own jobs, operators workers and all jobs, admins tokens."""

    ARTIST = "artist"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, other: "Role") -> bool:
        return _RANK[self] >= _RANK[other]


_RANK = {role: rank for rank, role in enumerate(Role)}


class Means(StrEnum):
    """How a person was recognised."""

    OPEN = "open"  # nobody has an account here: whoever reaches this machine's loopback is trusted
    TOKEN = "token"
    PASSWORD = "password"
    SESSION = "session"  # a browser's cookie: every change must show that it comes from the farm's own page


@dataclass(frozen=True)
class Person:
    name: str
    role: Role
    means: Means = Means.OPEN


ANYBODY = Person("local", Role.ADMIN)


@dataclass(frozen=True)
class Token:
    """What is kept of a token. `prefix` is its public part, by which people name it; `name` is the person."""

    prefix: str
    digest: str = field(repr=False)
    name: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None  # to a few minutes
    revoked_at: datetime | None
    revoked_by: str | None


@dataclass(frozen=True)
class NewToken:
    """`secret` is shown once, to whom it was made for, and kept nowhere."""

    token: Token
    secret: str = field(repr=False)


def new_secret() -> str:
    """farm_, 8 letters that are no secret, and 256 random bits."""
    public = b32encode(secrets.token_bytes(5)).decode().lower()
    return f"farm_{public}_{urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip('=')}"


def prefix_of(secret: str) -> str | None:
    """The public part; None: it is no token of any farm."""
    found = _TOKEN.fullmatch(secret)
    return None if found is None else found[1]


def digest_of(secret: str) -> str:
    """With 256 random bits inside nothing slower than one SHA-256 is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def check_name(name: object) -> str:
    """A person's name as an owner of jobs. Raises InvalidRequest."""
    good = (
        isinstance(name, str)
        and 0 < len(name) <= _LONGEST_NAME
        and name.isprintable()
        and name == name.strip()
        and not set(name) & set("/:")
    )
    if not good:
        raise InvalidRequest(
            f"a person's name has 1 to {_LONGEST_NAME} printable characters without '/' and ':'", "like mei", "name"
        )
    return str(name)


def check_role(role: object) -> Role:
    try:
        return Role(str(role))
    except ValueError:
        raise InvalidRequest(f"no role is called {role!r}", f"choose from: {', '.join(Role)}", "role") from None


@dataclass(frozen=True)
class Password:
    """One who signs in with name and password. Only its digest is compared and held."""

    name: str
    role: Role
    digest: bytes = field(repr=False)

    def matches(self, name: str, password: str) -> bool:
        """Takes as long for a wrong name as for a wrong password."""
        given = password_digest(name, password)
        return hmac.compare_digest(self.digest, given)


def password_digest(name: str, password: str) -> bytes:
    # Name and password together: two people with one password are told apart.
    return hashlib.sha256(f"{len(name)}:{name}:{password}".encode("utf-8", "replace")).digest()


def passwords(lines: Iterable[str], where: str) -> tuple[Password, ...]:
    """NAME:PASSWORD a line, with `artist`, `operator` or `admin` before it; without, an admin. # is a comment.

    Raises InvalidRequest naming the line, never its words.
    """
    found: dict[str, Password] = {}
    for number, raw in enumerate(lines, start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise InvalidRequest(f"{where}, line {number}: not NAME:PASSWORD", "like mei:a-long-password", "auth")
        role, name, password = match.groups()
        found[check_name(name)] = Password(name, Role(role or Role.ADMIN), password_digest(name, password))
    return tuple(found.values())
