"""Comparing two videos: chosen by key or by hand, in step, under a divider; and the whole page without a mouse."""

from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import House
from tests.served.machine import until

expect.set_options(timeout=15_000)


def test_two_videos_are_chosen_by_keys_and_compared(browser: Browser, house: House) -> None:
    page = browser.new_page()
    page.goto(house.farm.url)
    page.locator(".card > a").nth(0).focus()
    page.keyboard.press("c")
    expect(page.locator("#tray")).to_contain_text("Choose one more")
    page.keyboard.press("j")
    expect(page.locator(".card > a").nth(1)).to_be_focused()
    page.keyboard.press("c")
    expect(page.locator("#tray-go")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url("**/compare?*")
    expect(page.locator("#tray")).to_be_hidden()
    expect(page.locator("tr.differs").filter(has_text="Seed")).to_have_count(1)
    expect(page.locator("tr.differs").filter(has_text="Model")).to_have_count(0)
    page.keyboard.press("Escape")
    page.wait_for_url(f"{house.farm.url}/")
    page.click("#tray-clear")
    expect(page.locator("#tray")).to_be_hidden()
    page.close()


def playing(page: Page) -> list[bool]:
    return page.locator(".pair video").evaluate_all("vs => vs.map(v => !v.paused)")


def test_they_play_in_step_and_go_frame_by_frame(browser: Browser, house: House) -> None:
    page = browser.new_page()
    page.goto(house.farm.url + house.paths["compare"])
    until(lambda: playing(page) == [True, True])
    page.keyboard.press("Space")
    until(lambda: playing(page) == [False, False])
    page.locator("#position").fill("0")
    for _ in range(3):
        page.keyboard.press("ArrowRight") if page.locator("#position").evaluate("e => e.blur() ?? true") else None
    times = page.locator(".pair video").evaluate_all("vs => vs.map(v => v.currentTime)")
    assert times[0] == times[1]
    assert abs(times[0] - 3 / 16) < 0.02
    page.close()


def test_the_divider_shows_one_over_the_other(browser: Browser, house: House) -> None:
    page = browser.new_page()
    page.goto(house.farm.url + house.paths["compare"])
    expect(page.locator("#divider")).to_be_hidden()
    page.click("#mode")
    page.locator("#divider").fill("25")
    second = page.locator(".pair figure").nth(1).locator(".screen")
    assert second.evaluate("e => getComputedStyle(e).clipPath") == "inset(0px 0px 0px 25%)"
    boxes = [page.locator(".pair video").nth(i).bounding_box() for i in (0, 1)]
    assert boxes[0] == boxes[1]
    page.close()


def test_by_hand_from_a_jobs_page(browser: Browser, house: House) -> None:
    page = browser.new_page()
    page.goto(f"{house.farm.url}/jobs/{house.made.done[2]}")
    page.click(".pick-this")
    expect(page.locator(".pick-this")).to_have_attribute("aria-pressed", "true")
    page.goto(house.farm.url)
    card = page.locator(f'.card[data-job="{house.made.done[3]}"]')
    card.hover()
    card.locator(".pick").click()
    page.click("#tray-go")
    page.wait_for_url(f"**/compare?a={house.made.done[2]}&b={house.made.done[3]}")
    page.close()


def test_one_video_is_no_comparison_and_the_page_says_how_to_begin_one(browser: Browser, house: House) -> None:
    page = browser.new_page()
    answer = page.goto(f"{house.farm.url}/compare?a={house.made.done[0]}")
    assert answer is not None
    assert answer.status == 422
    expect(page.locator("main")).to_contain_text("the button on a video")
    page.goto(f"{house.farm.url}/compare?a={house.made.done[0]}&b={house.made.held}")
    expect(page.locator("h1")).to_contain_text("has no video")
    page.close()


def test_from_the_queue_to_a_job_to_its_neighbours_and_back_by_keys(browser: Browser, house: House) -> None:
    page = browser.new_page()
    page.goto(house.farm.url)
    page.keyboard.press("/")
    expect(page.locator("#q")).to_be_focused()
    page.keyboard.type("triangle")
    expect(page.locator(".card")).to_have_count(1)
    page.keyboard.press("Escape")  # out of the field
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/*")
    here = page.url
    page.keyboard.press("j")
    page.wait_for_url(lambda url: url != here)
    page.keyboard.press("k")
    page.wait_for_url(here)
    page.keyboard.press("Escape")
    page.wait_for_url(f"{house.farm.url}/")
    page.keyboard.press("n")
    expect(page.locator("#prompt")).to_be_focused()
    page.close()
