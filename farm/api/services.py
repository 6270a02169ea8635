"""What every route needs, built once per process: database, store, models, the poke and the event hub."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from farm.db.engine import Database
from farm.domain.request import Models
from farm.storage.store import Store


def _nobody_listens() -> None:
    """A farm without a dispatcher beside it: polling finds the change."""


def _always() -> bool:
    return True


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

    @property
    def models(self) -> Models:
        """What can be asked for at this moment: workers come and go, and models are pulled while it runs."""
        return self.models_now()


def services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


Farm = Annotated[Services, Depends(services)]
