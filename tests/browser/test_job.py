"""A job's own page: what it waits for and what waits for it, its log, its steps as they come, its neighbours."""

import json
import re

from playwright.sync_api import Browser, expect

from farm.db import jobs
from tests.browser.conftest import House, Visit
from tests.browser.test_queue import submit
from tests.served.farm import Served
from tests.served.machine import Machine, until
from tests.served.outage import Outage, outage

__all__ = ["outage"]

expect.set_options(timeout=15_000)


def test_what_it_waits_for_and_what_waits_for_it_are_links(browser: Browser, house: House) -> None:
    page = browser.new_page()
    page.goto(f"{house.farm.url}/jobs/{house.made.dependent}")
    waits = page.get_by_role("region", name="Waits for", exact=True)
    expect(waits.locator("li")).to_have_count(2)
    expect(waits.locator("li").first).to_contain_text("Rendering")
    waits.locator("a").first.click()
    page.wait_for_url(f"**/{house.made.running}")
    waited = page.get_by_role("region", name="Is waited for by")
    expect(waited.locator("a")).to_have_attribute("href", f"/jobs/{house.made.dependent}")
    page.close()


def test_every_step_leaves_its_preview_in_a_strip(visit: Visit, served: Served, machine: Machine) -> None:
    job = submit(served, "a kite")
    machine.take()
    machine.step(1)
    page = visit.open(f"/jobs/{job}")
    for step in (2, 3, 4):
        machine.step(step)
        expect(page.locator(f'#steps [data-step="{step}"] img')).to_have_js_property("complete", True)
    steps = page.locator("#steps li").evaluate_all("items => items.map(item => Number(item.dataset.step))")
    assert steps == sorted(steps)
    expect(page.locator('.stage [data-f="preview"]')).to_have_attribute("src", re.compile("step=4$"))


def test_the_log_tells_what_happened_in_order(browser: Browser, house: House) -> None:
    page = browser.new_page()
    page.goto(f"{house.farm.url}/jobs/{house.made.done[-1]}")
    lines = page.locator(".history li > span").all_inner_texts()
    assert lines[0] == "Accepted from local"
    assert "lost" in lines[3]
    assert "SIGKILL" in lines[3]
    assert lines[-2:] == ["Attempt 2: succeeded", "Done"]
    page.close()


def test_neighbours_are_of_its_own_kind(browser: Browser, house: House) -> None:
    page = browser.new_page()
    page.goto(f"{house.farm.url}/jobs/{house.made.done[3]}")
    expect(page.locator("#newer")).to_have_attribute("href", f"/jobs/{house.made.done[4]}")
    expect(page.locator("#older")).to_have_attribute("href", f"/jobs/{house.made.done[2]}")
    page.goto(f"{house.farm.url}/jobs/{house.made.done[0]}")
    expect(page.locator("#older")).to_have_count(0)
    page.close()


def test_copied_settings_make_the_same_video(browser: Browser, house: House) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"{house.farm.url}/jobs/{house.made.done[2]}")
    page.click("#copy")
    expect(page.locator("#copy")).to_have_text("Copied")
    settings = json.loads(page.evaluate("navigator.clipboard.readText()"))
    spec = jobs.get(house.farm.services.db, house.made.done[2]).spec
    assert settings["seed"] == spec.seed
    assert settings["prompt"] == spec.prompt
    assert settings["tags"] == {"shot": "01"}
    context.close()


def test_it_moves_to_the_front_and_says_so(visit: Visit, served: Served, machine: Machine) -> None:
    submit(served, "first")
    late = submit(served, "late")
    page = visit.open(f"/jobs/{late}")
    expect(page.locator(".because")).to_contain_text("1 job of its lane goes first")
    page.click("button:has-text('To the front')")
    expect(page.locator(".because")).to_contain_text("It is next")
    assert jobs.position(served.services.db, late) == 0


def test_a_failure_says_what_to_do(browser: Browser, house: House) -> None:
    page = browser.new_page()
    page.goto(f"{house.farm.url}/jobs/{house.made.failed}")
    expect(page.get_by_role("alert").first).to_contain_text("say it with fewer words")
    expect(page.get_by_role("button", name="Retry")).to_be_visible()
    page.close()


def test_the_health_page_follows_an_outage(visit: Visit, served: Served, outage: Outage) -> None:
    page = visit.open("/health")
    expect(page.locator("#verdict")).to_contain_text("Ready")
    expect(page.locator("main")).to_contain_text("free")
    outage.store = True
    until(lambda: page.reload() and "Not ready" in page.locator("#verdict").inner_text())
    expect(page.locator("main .bad").last).to_contain_text("does not answer")
    outage.store = False
    outage.database = True
    page.reload()
    expect(page.locator("#verdict")).to_contain_text("Not ready")  # it answers also without its database
