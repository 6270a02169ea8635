"""A real Chromium in front of the served farm. No network but loopback is ever needed."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.served.farm import Served, machine, migrated_bytes, served, services

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
