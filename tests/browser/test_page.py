"""The page in a real browser: it moves without reloads, plays, filters, reconnects, and asks nobody else."""

import re
from urllib.parse import urlsplit

from playwright.sync_api import Page, expect

from farm.db import jobs
from farm.domain.request import new_job
from tests.browser.conftest import Visit
from tests.served.farm import Served
from tests.served.machine import Machine, until

PLAYS = "vs => vs.map(v => !v.paused && v.readyState >= 2 && v.currentTime > 0)"


def submit(farm: Served, prompt: str = "a red kite", **fields: object) -> str:
    wish = new_job({"prompt": prompt, **fields}, farm.services.models)
    return jobs.submit(farm.services.db, [wish])[0].job.id


def render(farm: Served, machine: Machine, prompt: str = "a red kite") -> str:
    job = submit(farm, prompt)
    machine.take()
    machine.finish()
    return job


def until_plays(page: Page, videos: str, wanted: list[bool]) -> None:
    """Asked from outside: the page's own policy forbids the evaluation that wait_for_function needs."""
    until(lambda: page.locator(videos).evaluate_all(PLAYS) == wanted)


def mark(page: Page) -> None:
    """A reload would lose this."""
    page.evaluate("window.never_reloaded = true")


def test_a_job_is_seen_from_prompt_to_playing_video_without_a_reload(
    visit: Visit, served: Served, machine: Machine
) -> None:
    page = visit.open()
    mark(page)
    expect(page.locator("#empty")).to_be_visible()
    page.fill("#prompt", "一个大的红色圆形")
    page.keyboard.press("Enter")
    row = page.locator(".row")
    expect(row).to_have_attribute("data-state", "queued")
    expect(row.locator(".prompt")).to_have_text("一个大的红色圆形")
    expect(page.locator("#empty")).to_be_hidden()
    expect(page.locator('.chip[data-chip="queued"] b')).to_have_text("1")

    machine.take()
    machine.step(4)
    expect(row).to_have_attribute("data-state", "running")
    expect(row.locator('[data-f="where"]')).to_have_text("denoising 4 of 16")
    preview = row.locator('[data-f="preview"]')
    expect(preview).to_have_attribute("src", re.compile("step=4$"))
    assert preview.evaluate("i => i.naturalWidth") == 96
    before = row.locator("progress").evaluate("p => p.value")
    machine.step(12)
    expect(row.locator('[data-f="where"]')).to_have_text("denoising 12 of 16")
    expect(preview).to_have_attribute("src", re.compile("step=12$"))
    assert row.locator("progress").evaluate("p => p.value") > before

    machine.finish()
    card = page.locator(".card")
    expect(card).to_have_count(1)
    expect(row).to_have_count(0)
    card.hover()
    until_plays(page, ".card video", [True])
    assert page.evaluate("window.never_reloaded") is True


def test_posters_play_on_focus_and_stop_when_it_leaves(visit: Visit, served: Served, machine: Machine) -> None:
    for prompt in ("first", "second"):
        render(served, machine, prompt)
    page = visit.open()
    page.locator(".card a").first.focus()
    until_plays(page, ".card video", [True, False])
    page.keyboard.press("Tab")
    until_plays(page, ".card video", [False, True])


def test_small_videos_are_enlarged_by_whole_pixels_where_that_fills_their_place(
    visit: Visit, served: Served, machine: Machine
) -> None:
    job = render(served, machine)
    page = visit.open(f"/jobs/{job}")
    video = page.locator(".stage video")
    times = video.bounding_box()["width"] * page.evaluate("devicePixelRatio") / 192  # type: ignore[index]
    assert times >= 2
    assert times == int(times)
    rendering = "v => getComputedStyle(v).imageRendering"
    assert video.evaluate(rendering) == "pixelated"
    card = visit.open("/").locator(".card video")
    assert card.bounding_box()["width"] == 288  # type: ignore[index]  # one and a half times: smoothly
    assert card.evaluate(rendering) == "auto"


def test_the_detail_page_follows_its_job_to_the_looping_video(
    visit: Visit, served: Served, machine: Machine
) -> None:
    job = submit(served, "a red kite")
    page = visit.open(f"/jobs/{job}")
    mark(page)
    expect(page.locator(".because")).not_to_be_empty()
    machine.take()
    machine.step(6)
    expect(page.locator('[data-f="where"]')).to_have_text("denoising 6 of 16")
    expect(page.locator('.stage [data-f="preview"]')).to_have_attribute("src", re.compile("step=6$"))
    machine.die()
    expect(page.locator(".pill")).to_have_text("Waiting")
    second = Machine(machine.db, machine.store, "w2")
    second.take()
    second.finish()
    until_plays(page, ".stage video", [True])
    assert page.locator(".stage video").evaluate("v => v.loop")
    attempts = page.locator(".attempts tbody tr")
    expect(attempts).to_have_count(2)
    expect(attempts.nth(0)).to_contain_text("succeeded")
    expect(attempts.nth(0)).to_contain_text("0.31 s")
    expect(attempts.nth(1)).to_contain_text("lost")
    assert page.evaluate("window.never_reloaded") is True


def test_a_dropped_stream_says_reconnecting_and_catches_up(visit: Visit, served: Served) -> None:
    page = visit.open()
    mark(page)
    served.stop()
    expect(page.locator("#link")).to_have_attribute("data-state", "reconnecting")
    expect(page.locator("#link")).to_have_text("reconnecting")
    submit(served, "while you were away")
    served.start()
    expect(page.locator("#link")).to_have_attribute("data-state", "live")
    expect(page.locator(".row .prompt")).to_have_text("while you were away")
    assert page.evaluate("window.never_reloaded") is True


def test_chips_filter_and_the_address_remembers(visit: Visit, served: Served) -> None:
    submit(served, "a kite")
    submit(served, "a boat", hold=True)
    page = visit.open()
    page.click('.chip[data-chip="held"]')
    expect(page.locator(".row .prompt")).to_have_text(["a boat"])
    assert urlsplit(page.url).query == "state=held"
    submit(served, "another kite")  # does not belong here
    submit(served, "another boat", hold=True)
    expect(page.locator(".row")).to_have_count(2)
    page.reload()
    expect(page.locator('.chip[aria-current="true"]')).to_contain_text("On hold")
    page.go_back()
    expect(page.locator(".row")).to_have_count(4)
    page.fill("#q", "boat")
    expect(page.locator(".row")).to_have_count(2)
    assert urlsplit(page.url).query == "q=boat"


def test_a_wrong_setting_is_explained_at_its_field(visit: Visit, served: Served) -> None:
    page = visit.open()
    page.fill("#prompt", "a kite")
    page.click("#settings > summary")
    page.fill("[name=frames]", "18")
    page.click("#render")
    expect(page.locator("#form-error")).to_contain_text("the nearest is 33")
    expect(page.locator("[name=frames]")).to_be_focused()
    page.fill("[name=frames]", "33")
    page.click("#render")
    expect(page.locator(".row")).to_have_count(1)
    expect(page.locator("#hint")).to_contain_text("does not know: kite")


def test_cancel_asks_first_and_then_cancels(visit: Visit, served: Served) -> None:
    job = submit(served, "a kite")
    page = visit.open(f"/jobs/{job}")
    page.click("text=Cancel >> nth=0")
    page.click("text=Keep it")
    expect(page.locator(".pill")).to_have_text("Waiting")
    page.click("text=Cancel >> nth=0")
    page.click("text=Cancel the job")
    expect(page.locator(".pill")).to_have_text("Cancelled")
    expect(page.locator(".waiting")).to_be_hidden()  # it waits for nothing
    page.click("button:has-text('Retry')")
    expect(page.locator(".pill")).to_have_text("Waiting")
    page.click("button:has-text('Hold')")
    expect(page.locator(".because")).to_contain_text("held")
    page.click("button:has-text('Release')")
    expect(page.locator(".pill")).to_have_text("Waiting")


def test_the_page_of_an_unknown_job_says_so_and_waits_for_nothing(visit: Visit, served: Served) -> None:
    page = visit.page
    page.goto(f"{served.url}/jobs/job_nosuch")
    expect(page.locator("h1")).to_have_text("there is no job 'job_nosuch'")
    expect(page.locator("#link")).to_be_hidden()  # there is nothing to be connected for


def test_rerun_with_a_new_seed_opens_the_new_job(visit: Visit, served: Served, machine: Machine) -> None:
    job = render(served, machine)
    page = visit.open(f"/jobs/{job}")
    page.click("text=Rerun, new seed")
    page.wait_for_url(lambda url: "/jobs/" in url and job not in url)
    expect(page.locator(".pill")).to_have_text("Waiting")


def test_a_prompt_is_text_and_never_markup(visit: Visit, served: Served) -> None:
    attack = '<img src=x onerror="document.title=1"> \' " & {{ 7*7 }}'
    page = visit.open()
    submit(served, attack)  # drawn by the script
    expect(page.locator(".row .prompt")).to_have_text(attack)
    page.reload()  # drawn by the server
    expect(page.locator(".row .prompt")).to_have_text(attack)
    assert page.title() == "turbofarm"


def test_many_tabs_share_one_connection_to_the_stream(visit: Visit, served: Served) -> None:
    from farm.api.stream import Hub

    pages = [visit.open()]
    for _ in range(7):
        page = pages[0].context.new_page()
        page.goto(served.url)
        page.wait_for_selector("#link[data-state=live]")
        pages.append(page)
    hub: Hub = served.app.state.hub
    assert len(hub._subscribers) == 1
    submit(served, "seen by all")
    for page in pages:
        expect(page.locator(".row .prompt")).to_have_text("seen by all")


def test_no_request_leaves_the_farm(visit: Visit, served: Served, machine: Machine) -> None:
    job = render(served, machine)
    page = visit.open()
    page.locator(".card").hover()
    until_plays(page, ".card video", [True])
    visit.open(f"/jobs/{job}")
    hosts = {urlsplit(url).netloc for url in visit.asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(served.url).netloc}


def test_the_page_works_without_its_script(visit: Visit, served: Served) -> None:
    context = visit.page.context.browser.new_context(java_script_enabled=False)  # type: ignore[union-attr]
    page = context.new_page()
    page.goto(served.url)
    page.fill("#prompt", "a kite")
    page.click("#render")
    expect(page.locator(".row .prompt")).to_have_text("a kite")
    page.click(".row a")
    page.click("button:has-text('Hold')")
    expect(page.locator(".pill")).to_have_text("On hold")
    context.close()


def test_a_phone_never_scrolls_sideways(phone: Visit, served: Served, machine: Machine) -> None:
    job = render(served, machine, "a_prompt_without_any_space_" * 7)
    submit(served, "w" * 200)
    for path in ("/", f"/jobs/{job}", "/?state=failed"):
        page = phone.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    assert phone.open("/").locator(".card video").bounding_box()["width"] >= 120  # type: ignore[index]
