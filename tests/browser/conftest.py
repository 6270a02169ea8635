"""A real Chromium in front of the served farm. No network but loopback is ever needed."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Page

from tests.served.farm import Served, machine, migrated_bytes, served, services, services_in
from tests.served.furnished import Furnished, furnish
from tests.served.pictures import offer_i2v

__all__ = ["machine", "migrated_bytes", "served", "services"]


class Visit:
    """One page of one visitor, with everything it asked for and everything that went wrong on it."""

    def __init__(self, page: Page, farm: Served) -> None:
        self.page = page
        self.farm = farm
        self.asked: list[str] = []
        self.troubles: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.troubles.append(str(error)))

    def open(self, path: str = "/") -> Page:
        self.page.goto(self.farm.url + path)
        self.page.wait_for_selector("#link[data-state=live]")
        return self.page


@pytest.fixture
def visit(browser: Browser, served: Served) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1360, "height": 900})
    context.set_default_timeout(15_000)
    made = Visit(context.new_page(), served)
    yield made
    assert made.troubles == []
    context.close()


@pytest.fixture
def phone(browser: Browser, served: Served) -> Iterator[Visit]:
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, device_scale_factor=3, is_mobile=True, has_touch=True
    )
    context.set_default_timeout(15_000)
    made = Visit(context.new_page(), served)
    yield made
    assert made.troubles == []
    context.close()


@dataclass(frozen=True)
class House:
    """A furnished farm that the tests of one module share: they look, and change nothing."""

    farm: Served
    made: Furnished

    @property
    def paths(self) -> dict[str, str]:
        """Every page there is."""
        return {
            "queue": "/", "waiting": "/?state=queued", "nothing": "/?q=nowhere", "workers": "/workers",
            "job": f"/jobs/{self.made.done[-1]}", "running": f"/jobs/{self.made.running}",
            "dependent": f"/jobs/{self.made.dependent}", "failed": f"/jobs/{self.made.failed}",
            "unknown": "/jobs/job_nosuch", "health": "/health",
            "compare": f"/compare?a={self.made.done[0]}&b={self.made.done[4]}", "nothing to compare": "/compare",
        }  # fmt: skip


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, migrated_bytes: bytes) -> Iterator[House]:
    with services_in(tmp_path_factory.mktemp("house"), migrated_bytes) as services:
        offer_i2v(services)
        made = furnish(services)
        farm = Served(services)
        farm.start()
        yield House(farm, made)
        farm.stop()
