"""Signing in with a browser: the page works as before, on the session's behalf, and says when that is over."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from farm.db import jobs, tokens
from farm.domain.person import Role
from tests.browser.conftest import Visit
from tests.browser.test_access import AXE, RUN
from tests.served.farm import Served


@pytest.fixture
def secret(served: Served) -> str:
    """The farm has an account: from now on one signs in."""
    return tokens.create(served.services.db, "mei", Role.ADMIN, "test").secret


def enter(visit: Visit, secret: str) -> Page:
    page, served = visit.page, visit.farm
    served.app.state.accounts.look_again()
    page.goto(f"{served.url}/?state=queued")
    expect(page).to_have_url(re.compile("/login"))
    page.get_by_label("Password or token").fill(secret)
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{served.url}/?state=queued")
    return page


def test_a_job_is_submitted_and_seen_live_after_signing_in(visit: Visit, served: Served, secret: str) -> None:
    page = enter(visit, secret)
    page.goto(served.url)
    expect(page.locator("#link")).to_have_attribute("data-state", "live")
    page.locator("#prompt").fill("a large red circle moving up on a black background")
    page.locator("#prompt").press("Enter")
    expect(page.locator("#rows [data-job]")).to_have_count(1)
    (job,), _ = jobs.find(served.services.db)
    assert job.owner == "mei"
    jobs.hold(served.services.db, job.id)
    expect(page.locator("#rows [data-job]")).to_have_attribute("data-state", "held")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious_where_people_sign_in(
    browser: Browser, served: Served, secret: str, theme: str
) -> None:
    served.app.state.accounts.look_again()
    context = browser.new_context(bypass_csp=True, color_scheme=theme)  # type: ignore[arg-type]
    page = context.new_page()
    for language in ("en", "zh"):
        page.goto(f"{served.url}/login?lang={language}")
        page.evaluate(AXE)
        assert page.evaluate(RUN) == []
    context.close()


def test_signing_out_leads_to_the_form_and_a_page_left_open_notices(
    visit: Visit, served: Served, secret: str
) -> None:
    page = enter(visit, secret)
    left = page.context.new_page()
    left.goto(served.url)
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{served.url}/login")
    left.locator("#prompt").fill("a large red circle moving up on a black background")
    left.locator("#prompt").press("Enter")
    expect(left).to_have_url(re.compile("/login"))
    assert jobs.find(served.services.db)[0] == []
