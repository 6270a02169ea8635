"""What every route needs, built once per process: database, store, models, the poke and the event hub."""

import asyncio
import copy
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast

from fastapi import Depends, Request

from farm.api.access import Gate
from farm.api.sessions import Sessions
from farm.db.engine import Database
from farm.domain.errors import FarmError
from farm.domain.person import ANYBODY, Means, Password, Person
from farm.domain.request import Models
from farm.scheduling.stalls import StallLimits
from farm.storage.store import Store

_BELIEVED = 2.0  # seconds


def _nobody_listens() -> None:
    """A farm without a dispatcher beside it: polling finds the change."""


def _always() -> bool:
    return True


class StoreWatch:
    """What is wrong with the store, asked of it at most every few seconds however many want to know."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._asked_at = -1e9
        self._trouble: FarmError | None = None

    def trouble(self) -> FarmError | None:
        """None: it is there."""
        with self._lock:
            if time.monotonic() - self._asked_at > _BELIEVED:
                self._trouble = None
                try:
                    self._store.check()
                except FarmError as error:
                    self._trouble = error
                self._asked_at = time.monotonic()
            return self._trouble


@dataclass(frozen=True)
class Services:
    """`poke` wakes the dispatcher early; `dispatcher_alive` is part of readiness."""

    db: Database
    store: Store
    models_now: Callable[[], Models]
    poke: Callable[[], None] = _nobody_listens
    dispatcher_alive: Callable[[], bool] = _always
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "::1")
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    stall_limits: StallLimits = field(default_factory=StallLimits)  # as the machines have them
    store_redirect: bool = False  # videos straight from the store, where it has addresses for everyone
    log_dir: Path | None = None  # of this machine's processes
    passwords: tuple[Password, ...] = ()
    sessions: Sessions | None = None  # None: cookies of this process only
    public: bool = False  # others than this machine's users reach it: nobody gets in without signing in
    any_host: bool = False  # by whatever name they do
    artists_change_all: bool = False
    person: Person = ANYBODY  # who asks; see `services`
    store_watch: StoreWatch = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "store_watch", StoreWatch(self.store))

    @property
    def models(self) -> Models:
        """What can be asked for at this moment: workers come and go, and models are pulled while it runs."""
        return self.models_now()

    def to(self, person: Person) -> "Services":
        """The same farm, as this person meets it."""
        met = copy.copy(self)
        object.__setattr__(met, "person", person)
        return met

    def by(self, said: str | None) -> str:
        """Whose deed it is: of who has signed in; where nobody does, of whom they say they are."""
        return (said or "somebody") if self.person.means is Means.OPEN else self.person.name


def services(request: Request, visitor: Gate) -> Services:
    return cast(Services, request.app.state.services).to(visitor.person)


Farm = Annotated[Services, Depends(services)]
