"""What a page asks for: nothing of other hosts, little of its own, and nothing twice."""

from urllib.parse import urlsplit

from playwright.sync_api import Browser, Response

from tests.browser.conftest import House

MOST = 300_000  # bytes of a page without its videos


def test_every_page_weighs_little_and_asks_only_this_farm(browser: Browser, house: House) -> None:
    for name in ("queue", "job", "workers", "compare", "health"):
        path = house.paths[name]
        context = browser.new_context(reduced_motion="reduce")  # nothing plays
        page = context.new_page()
        answers: list[Response] = []
        page.on("response", lambda answer, answers=answers: answers.append(answer))
        page.goto(house.farm.url + path)
        hosts = {urlsplit(answer.url).netloc for answer in answers}
        assert hosts == {urlsplit(house.farm.url).netloc}, name
        weight = sum(len(a.body()) for a in answers if "/content" not in a.url and "/api/events" not in a.url)
        assert weight < MOST, f"{name}: {weight}"
        context.close()


def test_what_was_fetched_once_is_kept(browser: Browser, house: House) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(house.farm.url)
    asked: list[str] = []
    page.on("response", lambda answer: asked.append(answer.url) if not answer.from_service_worker else None)
    page.goto(f"{house.farm.url}/workers")
    # Not the icon: when a browser fetches that is its own affair, and may be after the first page.
    kept = page.evaluate(
        "performance.getEntriesByType('resource').filter(r => /[/]static[/].*(js|css)$/.test(r.name))"
        ".map(r => r.transferSize)"
    )
    assert kept, asked
    assert sum(kept) == 0
    context.close()
