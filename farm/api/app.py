"""The HTTP application: routes, doorway, errors, and the hub that lives as long as the server."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from fastapi import Depends, FastAPI

from farm.api import (
    batches,
    document,
    errors,
    events,
    health,
    images,
    inspect,
    jobs,
    lanes,
    models,
    people,
    prune,
    videos,
    workers,
)
from farm.api.access import gate, own_page_only
from farm.api.accounts import Accounts
from farm.api.guard import Guard, Head
from farm.api.services import Services
from farm.api.stream import Hub
from farm.web import login, pages


def create_app(services: Services) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        hub = Hub(services.db, services.stopping, store_trouble=services.store_watch.trouble)
        app.state.hub = hub
        poller = asyncio.create_task(hub.run())
        try:
            yield
        finally:
            poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await poller

    # FastAPI's own documentation pages load scripts from elsewhere; the schema itself has a route below.
    app = FastAPI(
        title="turbofarm", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None,
        dependencies=[Depends(gate), Depends(own_page_only)],
    )  # fmt: skip
    app.state.services = services
    app.state.accounts = Accounts(services.db, services.passwords, services.sessions, services.public)
    errors.install(app)
    for resource in (
        videos,
        jobs,
        batches,
        prune,
        images,
        inspect,
        workers,
        lanes,
        models,
        people,
        health,
        events,
        document,
        login,
    ):
        app.include_router(resource.router)
    pages.install(app)
    app.add_middleware(Head, endless=(events.PATH,))
    app.add_middleware(Guard, hosts=services.hosts, any_host=services.any_host)
    return app
