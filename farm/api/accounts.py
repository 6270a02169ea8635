"""Recognising who asks: by bearer token, by name and password, or by a browser's session. Guessing is bounded."""

import base64
import binascii
import contextlib
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from farm.api.sessions import Session, Sessions
from farm.db import tokens
from farm.db.engine import Database
from farm.domain.errors import DatabaseUnavailable, NotSignedIn, TooManyTries
from farm.domain.person import ANYBODY, Means, Password, Person, Token, digest_of, prefix_of

log = logging.getLogger("farm.api.accounts")

TRIES = 10  # wrong ones from one address within WINDOW
TRIES_OF_ALL = 200
WINDOW = 60.0  # seconds
_ADDRESSES = 10_000  # remembered at once
_LOOK = 1.0  # seconds between two questions whether there is an account by now
_BELIEVED = 600.0  # seconds for which a token that was valid is, while the database is away

_HOW = "sign in: set FARM_TOKEN to a token that an admin made for you (farm token create)"


@dataclass(frozen=True)
class Visitor:
    """A person, and the session where a browser has one."""

    person: Person
    session: Session | None = None


class Accounts:
    """One per process; many threads ask."""

    def __init__(
        self,
        db: Database,
        passwords: Sequence[Password] = (),
        sessions: Sessions | None = None,
        public: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`public`: others than this machine's users reach this server, so that it is never open."""
        self._db = db
        self._passwords = tuple(passwords)
        self.sessions = sessions or Sessions(secrets.token_bytes(32))
        self._locked = public or bool(passwords)
        self._looked_at = -1e9
        self._tries = Tries(clock)
        self._clock = clock
        self._valid: dict[str, tuple[Token, float]] = {}

    @property
    def open(self) -> bool:
        """Nobody has an account, and only this machine's users come: all of them may do everything."""
        if not self._locked and self._clock() - self._looked_at > _LOOK:
            with contextlib.suppress(DatabaseUnavailable):  # as it was: without its database nothing changes
                self._locked = tokens.exist(self._db)
            self._looked_at = self._clock()
        return not self._locked

    def look_again(self) -> None:
        """There may be an account since a moment ago."""
        self._looked_at = -1e9

    def who(self, headers: Mapping[str, str], cookies: Mapping[str, str], address: str) -> Visitor:
        """Raises NotSignedIn, TooManyTries, DatabaseUnavailable."""
        if self.open:
            return Visitor(ANYBODY)
        scheme, _, said = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return Visitor(self._by_token(said.strip(), address))
        if scheme.lower() == "basic":
            name, password = _basic(said)
            return Visitor(self.by_password(name, password, address)[0])
        session = self.sessions.read(cookies.get(self.sessions.cookie, ""))
        if session is not None and self._still(session):
            return Visitor(Person(session.name, session.role, Means.SESSION), session)
        if session is not None:
            raise NotSignedIn("your session is over", _HOW)
        raise NotSignedIn("this farm wants to know who you are", _HOW)

    def by_password(self, name: str, password: str, address: str) -> tuple[Person, str]:
        """The person, and the proof that a session keeps. A token may stand for name and password."""
        if prefix_of(password) is not None:
            person = self._by_token(password, address)
            return person, f"token:{prefix_of(password)}"
        self._tries.check(address)  # before looking: else the right one among too many tries would show
        matching = [one for one in self._passwords if one.matches(name, password)]  # all of them: no early end
        if not matching:
            self._tries.wrong(address)
            raise NotSignedIn("name or password is wrong", "try again, or ask who runs this farm")
        found = matching[0]
        return Person(found.name, found.role, Means.PASSWORD), f"password:{self.sessions.fingerprint(found.digest)}"

    def _by_token(self, secret: str, address: str) -> Person:
        # A right token passes however many wrong ones came: nobody guesses 256 bits, but one bad script could
        # lock out a whole studio behind one address.
        digest = digest_of(secret)
        try:
            found = tokens.look_up(self._db, secret)
        except DatabaseUnavailable:
            token, at = self._valid.get(digest, (None, -1e9))
            if token is None or self._clock() - at > _BELIEVED:
                raise
            found = token
        else:
            self._remember(digest, found)
        if found is None:
            self._tries.check(address)
            self._tries.wrong(address)
            raise NotSignedIn("this token is not valid, or not any more", "ask an admin for a new one")
        return Person(found.name, found.role, Means.TOKEN)

    def _still(self, session: Session) -> bool:
        """What opened it is still good."""
        kind, _, what = session.proof.partition(":")
        if kind == "token":
            try:
                found = tokens.valid(self._db, what)
            except DatabaseUnavailable:
                return True  # signed, and a session at most a week old
            return found is not None and (found.name, found.role) == (session.name, session.role)
        return any(
            self.sessions.fingerprint(one.digest) == what and one.role is session.role for one in self._passwords
        )

    def _remember(self, digest: str, found: Token | None) -> None:
        if found is None:
            self._valid.pop(digest, None)
            return
        if len(self._valid) >= _ADDRESSES:
            self._valid.clear()
        self._valid[digest] = (found, self._clock())


class Tries:
    """Counts wrong credentials by address and in all, over the last minute, in bounded memory."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._wrong: dict[str, deque[float]] = {}
        self._all: deque[float] = deque(maxlen=TRIES_OF_ALL)

    def check(self, address: str) -> None:
        """Raises TooManyTries."""
        with self._lock:
            since = self._clock() - WINDOW
            mine = self._wrong.get(address, ())
            too_many = (
                sum(at > since for at in mine) >= TRIES or sum(at > since for at in self._all) >= TRIES_OF_ALL
            )
        if too_many:
            raise TooManyTries("too many wrong tries", f"wait {WINDOW:.0f} seconds, then try again")

    def wrong(self, address: str) -> None:
        with self._lock:
            now = self._clock()
            if len(self._wrong) >= _ADDRESSES:
                self._wrong = {a: seen for a, seen in self._wrong.items() if seen[-1] > now - WINDOW}
            if len(self._wrong) >= _ADDRESSES:
                self._wrong.clear()  # an attack from everywhere: the bound of all holds it
            self._wrong.setdefault(address, deque(maxlen=TRIES)).append(now)
            self._all.append(now)
        log.warning("wrong credentials", extra={"address": address})


def _basic(said: str) -> tuple[str, str]:
    try:
        name, _, password = base64.b64decode(said, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return name, password
