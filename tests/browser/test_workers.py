"""The workers' view: menus that act at once, by hand and by keyboard, live for all; and what outages look like."""

import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from farm.db import nodes, quarantines, workers
from farm.domain.states import Wish
from farm.domain.worker import Load
from farm.web.words import WORDS
from tests.browser.conftest import Visit
from tests.served.farm import Served
from tests.served.machine import Machine, until
from tests.served.outage import Outage, outage

__all__ = ["outage"]

expect.set_options(timeout=15_000)


@pytest.fixture
def view(visit: Visit, machine: Machine) -> Page:
    return visit.open("/workers")


def busy(served: Served, machine: Machine) -> str:
    job = httpx.post(f"{served.url}/api/jobs", json={"prompt": "a kite"}).json()["id"]
    machine.take()
    machine.step(3, preview=False)
    return job


def wished(served: Served, worker: str = "w1") -> tuple[Wish, bool]:
    (found,) = [w for w in workers.find(served.services.db) if w.id == worker]
    return found.wish, found.wish_now


def test_a_worker_is_drained_and_resumed_from_its_menu(view: Page, served: Served) -> None:
    view.click("#open-w1")
    view.click("#w-w1-drain")
    expect(view.locator(".wished")).to_contain_text("draining takes no jobs")
    assert wished(served) == (Wish.DRAIN, False)
    view.click("#open-w1")
    view.click("#w-w1-resume")
    expect(view.locator(".wished")).to_have_count(0)
    assert wished(served) == (Wish.RUN, False)


def test_a_tile_shows_how_hard_its_device_works(visit: Visit, served: Served, machine: Machine) -> None:
    machine.load = Load(83, 61 << 30, 68, 540, (0, 40, 83), (41, 55, 68))
    machine.beat("idle")
    tile = visit.open("/workers").locator(".tile")
    expect(tile).to_contain_text("83 %")
    expect(tile).to_contain_text("68 °C, 540 W")
    expect(tile).to_contain_text("65.5 GB")
    expect(tile.get_by_role("img", name="load in the last ten minutes, 0 to 100 %")).to_be_visible()
    assert tile.locator("polyline").first.get_attribute("points") == "115.9,23.0 118.0,14.2 120.0,4.7"


def test_by_keyboard_alone(view: Page, served: Served) -> None:
    view.locator("#open-w1").focus()
    view.keyboard.press("Enter")
    view.keyboard.press("ArrowDown")
    expect(view.locator("#w-w1-drain")).to_be_focused()
    view.keyboard.press("Escape")
    expect(view.locator("#menu-w1")).not_to_have_attribute("open", "")
    expect(view.locator("#open-w1")).to_be_focused()
    view.keyboard.press("Enter")
    view.keyboard.press("ArrowDown")
    view.keyboard.press("ArrowDown")
    view.keyboard.press("Enter")
    expect(view.locator(".wished")).to_contain_text("restarting")
    expect(view.locator("#open-w1")).to_be_focused()
    assert wished(served)[0] is Wish.RESTART


def test_it_asks_before_work_is_lost(view: Page, served: Served, machine: Machine) -> None:
    job = busy(served, machine)
    expect(view.locator(f"[data-job={job}]")).to_be_visible()
    view.click("#open-w1")
    view.click("#w-w1-drain-now")
    expect(view.locator("#confirm-text")).to_contain_text(job)
    view.click("#confirm button[value=no]")
    assert wished(served)[0] is Wish.RUN
    if view.locator("#menu-w1").get_attribute("open") is None:  # closed by the dialog
        view.click("#open-w1")
    view.click("#w-w1-drain-now")
    view.click("#confirm button[value=yes]")
    expect(view.locator(".wished")).to_contain_text("goes back into the queue")
    assert wished(served) == (Wish.DRAIN, True)


def test_a_gpu_is_set_aside_with_its_end_and_released(view: Page, served: Served) -> None:
    view.click("#open-w1")
    view.get_by_role("button", name="Quarantine for 1 hour").click()
    expect(view.locator(".aside")).to_contain_text(
        re.compile(r"until \d{4}-\d\d-\d\d .* UTC, then a probe decides")
    )
    view.click("#open-w1")
    view.get_by_role("button", name="Release from quarantine").click()
    expect(view.locator(".aside")).to_have_count(0)
    assert quarantines.find(served.services.db) == []


def test_what_others_wish_is_seen_without_a_reload(view: Page, served: Served, machine: Machine) -> None:
    nodes.wish(served.services.db, "studio", Wish.DRAIN, "bob", "the roof leaks")
    expect(view.locator(".node > .wished")).to_contain_text("the roof leaks (by bob")
    nodes.wish(served.services.db, "studio", Wish.RUN, "bob")
    expect(view.locator(".wished")).to_have_count(0)
    job = busy(served, machine)
    expect(view.locator(f"[data-job={job}] [data-f=where]")).to_have_text(re.compile(r"denoising 3 of \d+"))
    machine.step(4, preview=False)
    expect(view.locator(f"[data-job={job}] [data-f=where]")).to_have_text(re.compile(r"denoising 4 of \d+"))


def test_a_menu_that_is_opened_stays_open_whatever_happens_meanwhile(view: Page, served: Served) -> None:
    held: list[Route] = []
    view.route("**/workers", lambda route: held.append(route), times=1)
    workers.wish(served.services.db, "w1", Wish.DRAIN, "ann")
    until(lambda: (view.wait_for_timeout(20), held)[1])  # the page asks how it is now
    view.click("#open-w1")
    with view.expect_response("**/workers") as answer:
        held[0].continue_()
    answer.value.finished()
    view.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    expect(view.locator("#w-w1-drain")).to_be_visible()  # still as it was opened
    view.keyboard.press("Escape")
    expect(view.locator(".wished")).to_contain_text("draining")


def test_it_speaks_chinese_to_whoever_reads_chinese(browser: Browser, served: Served, machine: Machine) -> None:
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    page.goto(f"{served.url}/workers")
    expect(page.locator("h1")).to_have_text("工作进程")
    page.click("text=English")
    expect(page.locator("h1")).to_have_text("Workers")
    page.goto(f"{served.url}/workers")
    expect(page.locator("h1")).to_have_text("Workers")  # chosen once, kept
    context.close()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_word_of_the_view_has_its_translation(served: Served, machine: Machine, language: str) -> None:
    assert WORDS[language].keys() == WORDS["en"].keys()
    page = httpx.get(f"{served.url}/workers?lang={language}").text
    assert f'<html lang="{language}">' in page
    assert "object at 0x" not in page
    assert WORDS[language]["shortcuts"] in page


def test_without_the_script_the_menus_are_forms(browser: Browser, served: Served, machine: Machine) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{served.url}/workers")
    page.click("#open-w1")
    page.click("#w-w1-drain")
    expect(page.locator(".wished")).to_contain_text("draining")
    page.click("#open-w1")
    page.get_by_role("button", name="Quarantine until released").click()
    expect(page.locator(".aside")).to_contain_text("until somebody releases it")
    context.close()


def test_on_a_phone_nothing_sticks_out(phone: Visit, machine: Machine, served: Served) -> None:
    workers.wish(served.services.db, "w1", Wish.DRAIN, "ann", "new driver " * 20)
    page = phone.open("/workers")
    page.tap("#open-w1")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    box = page.locator("#menu-w1 .choices").bounding_box()
    assert box is not None
    assert box["x"] >= 0


@pytest.mark.parametrize(("part", "word"), [("database", "database is away"), ("store", "store of videos is away")])
@pytest.mark.parametrize("path", ["/", "/workers"])
def test_an_outage_is_said_and_that_nothing_is_lost(
    visit: Visit, machine: Machine, outage: Outage, path: str, part: str, word: str
) -> None:
    page = visit.open(path)
    assert page.locator("#outage").is_hidden()
    setattr(outage, part, True)
    expect(page.locator("#outage")).to_contain_text(word)
    expect(page.locator("#outage")).to_contain_text("Nothing is lost")
    setattr(outage, part, False)
    expect(page.locator("#outage")).to_be_hidden()


def test_a_page_that_is_opened_meanwhile_says_so_and_comes_by_itself(
    visit: Visit, outage: Outage, tmp_path: Path
) -> None:
    outage.database = True
    visit.page.goto(visit.farm.url)
    expect(visit.page.locator("main")).to_contain_text("Nothing is lost")
    outage.database = False
    expect(visit.page.locator("#composer")).to_be_visible(timeout=15_000)
