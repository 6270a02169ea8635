"""Everybody can use every page: axe finds nothing serious, in both themes, on a desktop and on a phone."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import House

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text(encoding="utf-8")
RUN = """async () => {
    const { violations } = await axe.run();
    return violations.filter((v) => ["serious", "critical"].includes(v.impact))
        .map((v) => `${v.id}: ${v.nodes.map((n) => `${n.html} ${n.failureSummary}`).join(" | ").slice(0, 600)}`);
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 390])
def test_axe_finds_nothing_serious_on_any_page(browser: Browser, house: House, theme: str, width: int) -> None:
    context = browser.new_context(
        bypass_csp=True,  # its script is not the page's own
        color_scheme=theme,  # type: ignore[arg-type]
        viewport={"width": width, "height": 844},
        reduced_motion="reduce",  # a colour that fades in is not the colour
    )
    page = context.new_page()
    for name, path in house.paths.items():
        page.goto(house.farm.url + path)
        page.evaluate(AXE)
        assert page.evaluate(RUN) == [], name
        if name == "queue":
            unfold_everything(page)
            assert page.evaluate(RUN) == [], "the form, the list of keys"
    context.close()


def unfold_everything(page: Page) -> None:
    for fold in ("#settings", "#advanced"):
        page.click(f"{fold} > summary")
    page.fill("[name=frames]", "15")
    page.fill("#prompt", "a purple dragon moving")
    page.locator("[name=frames]").dispatch_event("input")


def test_the_list_of_keys_is_a_dialog_that_escape_closes(browser: Browser, house: House) -> None:
    page = browser.new_page()
    page.goto(house.farm.url)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.close()


def test_nothing_moves_for_who_asked_for_that(browser: Browser, house: House) -> None:
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(house.farm.url)
    page.locator(".card a").first.focus()
    assert page.locator(".card video").first.evaluate("v => v.paused")
    page.goto(f"{house.farm.url}{house.paths['compare']}")
    assert page.locator("video").first.evaluate("v => v.paused")
    moving = "document.getAnimations().filter(a => a.playState === 'running').length"
    assert page.evaluate(moving) == 0
    context.close()


def test_no_page_scrolls_sideways_on_a_phone(browser: Browser, house: House) -> None:
    for lang in ("en", "zh"):
        context = browser.new_context(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
        page = context.new_page()
        for name, path in house.paths.items():
            page.goto(f"{house.farm.url}{path}{'&' if '?' in path else '?'}lang={lang}")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, (name, lang)
        context.close()


def test_what_a_finger_presses_is_large_enough(browser: Browser, house: House) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page = context.new_page()
    sizes = """es => es.filter(e => e.checkVisibility())
        .map(e => [e.outerHTML.slice(0, 80), e.getBoundingClientRect()])
        .filter(([, box]) => box.width && (box.height < 32 || box.width < 32)).map(([text]) => text)"""
    for path in ("/", house.paths["job"], "/workers"):
        page.goto(house.farm.url + path)
        assert page.locator("button, .button, .chip, .rooms a, .languages a, select").evaluate_all(sizes) == [], (
            path
        )
    context.close()
