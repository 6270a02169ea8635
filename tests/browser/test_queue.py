"""The queue: filters that the address remembers, lists that stay short, one stream however many tabs there are."""

from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, expect

from farm.api.stream import Hub
from farm.db import jobs, pruning
from farm.domain.prune import Scope
from farm.domain.request import new_job
from farm.domain.states import JobState
from farm.web.queue import GLANCE, VIDEOS
from tests.browser.conftest import House, Visit
from tests.served.farm import Served
from tests.served.machine import Machine, until

expect.set_options(timeout=15_000)


def submit(farm: Served, prompt: str, **fields: object) -> str:
    wish = new_job({"prompt": prompt, **fields}, farm.services.models)
    return jobs.submit(farm.services.db, [wish])[0].job.id


def test_labels_filter_rows_videos_and_counts_and_the_back_button_undoes_them(visit: Visit, served: Served) -> None:
    submit(served, "a kite", project="trailer", tags={"shot": "1"})
    submit(served, "a boat", project="trailer", tags={"shot": "2"})
    submit(served, "a house")
    page = visit.open()
    page.select_option("#filter-project", "trailer")
    expect(page.locator(".row")).to_have_count(2)
    expect(page.locator('.chip[data-chip=""] b')).to_have_text("2")
    page.select_option("#filter-tag", "shot=2")
    expect(page.locator(".row .prompt")).to_have_text(["a boat"])
    assert parse_qs(urlsplit(page.url).query) == {"project": ["trailer"], "tag": ["shot=2"]}
    submit(served, "another boat", project="trailer", tags={"shot": "2"})
    submit(served, "another house", tags={"shot": "2"})  # these two do not belong here
    submit(served, "a third boat", project="trailer", tags={"shot": "3"})
    expect(page.locator(".row")).to_have_count(2)
    expect(page.locator('.chip[data-chip="queued"] b')).to_have_text("2")  # of those that fit, not of all
    page.reload()
    expect(page.locator(".row")).to_have_count(2)
    page.go_back()
    expect(page.locator(".row")).to_have_count(4)
    page.go_back()
    expect(page.locator(".row")).to_have_count(6)
    expect(page.locator("#filter-project")).to_have_value("")


def test_a_long_queue_is_glanced_at_and_its_own_view_has_pages(visit: Visit, served: Served) -> None:
    for number in range(GLANCE + 100):
        submit(served, f"number {number}")
    page = visit.open()
    expect(page.locator(".row")).to_have_count(GLANCE)
    expect(page.locator("#more")).to_contain_text("and 100 more")
    page.fill("#prompt", "a red circle")
    page.keyboard.press("Enter")
    expect(page.locator(".row .prompt").filter(has_text="a red circle")).to_have_count(1)  # one's own is shown
    page.click("#more a")
    expect(page.locator(".row")).to_have_count(100)
    assert urlsplit(page.url).query == "state=queued"
    page.click("#next-page")
    expect(page.locator(".row")).to_have_count(GLANCE + 1)
    expect(page.locator(".row .prompt").last).to_have_text("a red circle")


def test_a_job_is_moved_to_the_front_and_held_from_its_row(visit: Visit, served: Served) -> None:
    submit(served, "first")
    late = submit(served, "late")
    page = visit.open()
    row = page.locator(f'.row[data-job="{late}"]')
    row.hover()
    row.locator('[data-act="front"] button').click()
    until(lambda: jobs.position(served.services.db, late) == 0)
    page.reload()
    expect(page.locator(".row .prompt").first).to_have_text("late")
    page.locator(f'.row[data-job="{late}"]').locator('[data-act="hold"] button').click()
    expect(page.locator(f'.row[data-job="{late}"]')).to_have_attribute("data-state", "held")
    assert jobs.get(served.services.db, late).state is JobState.HELD


def test_tabs_without_a_shared_worker_choose_a_leader_and_a_new_one_when_it_goes(
    browser: Browser, served: Served
) -> None:
    context = browser.new_context()
    context.add_init_script("delete window.SharedWorker")
    pages = []
    for _ in range(3):
        page = context.new_page()
        page.goto(served.url)
        page.wait_for_selector("#link[data-state=live]")
        pages.append(page)
    hub: Hub = served.app.state.hub
    assert len(hub._subscribers) == 1
    submit(served, "seen by all")
    for page in pages:
        expect(page.locator(".row .prompt")).to_have_text("seen by all")
    opened: list[str] = []
    for page in pages[1:]:
        page.on("request", lambda request: opened.append(request.url) if "/api/events" in request.url else None)
    pages[0].close()
    submit(served, "seen by the rest")
    for page in pages[1:]:
        expect(page.locator(".row")).to_have_count(2)
    until(lambda: len(hub._subscribers) == 1)
    assert len(opened) == 1
    assert not opened[0].endswith("after=0")  # it goes on where the others had heard it to
    context.close()


def test_older_videos_are_a_page_of_their_own_without_the_queue(
    visit: Visit, served: Served, machine: Machine
) -> None:
    for number in range(VIDEOS + 2):
        submit(served, f"number {number}")
        machine.take()
        machine.finish()
    submit(served, "waits")
    page = visit.open()
    expect(page.locator(".card")).to_have_count(VIDEOS)
    page.click("#next-page")
    expect(page.locator(".card .prompt")).to_have_text(["number 1", "number 0"])
    expect(page.locator(".row")).to_have_count(0)
    page.go_back()
    expect(page.locator(".row")).to_have_count(1)


@pytest.mark.parametrize("chip", ["failed", "running", "held"])
def test_an_empty_view_says_what_to_do(visit: Visit, chip: str) -> None:
    page = visit.open(f"/?state={chip}")
    expect(page.locator("#empty")).to_be_visible()
    page.click("#empty a")
    expect(page.locator(".idea").first).to_be_visible()


def test_eight_tabs_and_two_playing_videos_live_together(visit: Visit, served: Served, machine: Machine) -> None:
    for prompt in ("one", "two"):
        submit(served, prompt)
        machine.take()
        machine.finish()
    pages = [visit.open()]
    for _ in range(7):
        page = pages[0].context.new_page()
        page.goto(served.url)
        page.wait_for_selector("#link[data-state=live]")
        pages.append(page)
    playing = "v => !v.paused && v.currentTime > 0"
    for page in pages[:2]:
        page.bring_to_front()
        page.locator(".card a").first.focus()
        until(lambda page=page: page.locator(".card video").first.evaluate(playing))
    submit(served, "heard by all")
    for page in pages:
        expect(page.locator(".row .prompt")).to_have_text("heard by all")


def test_a_chip_of_the_furnished_farm_shows_only_its_jobs(browser: Browser, house: House) -> None:
    page = browser.new_page()
    page.goto(f"{house.farm.url}/?state=cancelled")
    expect(page.locator(".row")).to_have_attribute("data-job", house.made.cancelled)
    page.close()


def test_many_workers_are_one_line(visit: Visit, served: Served) -> None:
    for number in range(7):
        Machine(served.services.db, served.services.store, f"worker{number}")
    page = visit.open()
    expect(page.locator(".worker")).to_have_text("0 rendering, 7 idle, 0 starting")
    page.click(".worker a")
    expect(page.locator(".tile")).to_have_count(7)


def test_a_card_whose_video_made_room_says_so_at_once_and_after_a_reload(
    visit: Visit, served: Served, machine: Machine
) -> None:
    job = submit(served, "a kite")
    machine.take()
    machine.finish()
    page = visit.open()
    gone, video = page.locator(".card").get_by_text("video removed"), page.locator(".card video")
    expect(video).to_have_count(1)
    expect(gone).to_be_hidden()
    scope = Scope(frozenset({JobState.SUCCEEDED}), keep_rows=True)
    (seen,) = pruning.candidates(served.services.db, scope, 1)
    assert pruning.prune(served.services.db, scope, seen)
    expect(gone).to_be_visible()
    expect(video).to_have_count(0)
    page.reload()
    expect(gone).to_be_visible()
    expect(video).to_have_count(0)
    page.goto(f"{served.url}/jobs/{job}")
    expect(page.get_by_text("Its video was removed to make room")).to_be_visible()


def test_a_job_on_screen_whose_video_made_room_says_so(visit: Visit, served: Served, machine: Machine) -> None:
    job = submit(served, "a kite")
    machine.take()
    machine.finish()
    page = visit.open(f"/jobs/{job}")
    expect(page.locator("video")).to_have_count(1)
    scope = Scope(frozenset({JobState.SUCCEEDED}), keep_rows=True)
    (seen,) = pruning.candidates(served.services.db, scope, 1)
    assert pruning.prune(served.services.db, scope, seen)
    expect(page.get_by_text("Its video was removed to make room")).to_be_visible()
