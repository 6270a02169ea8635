"""Both languages: every page wholly in one of them, the choice kept, the farm's own sentences translated."""

import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

import farm.web
from farm.db import jobs
from farm.domain.errors import FarmError
from farm.domain.request import new_job
from farm.web.words import WORDS
from farm.web.words.sentences import said
from tests.browser.conftest import House

# Names that are the same in both languages, and what people wrote themselves.
SAME = re.compile(
    r"turbofarm|nowhere|Python|English|tiny-i2v|demo-\w+|\w+-a14b|\bcpu:\S+|CPU cores|job_\w+|digest|studio|default"
    r"|local|\bUTC\b|SIGKILL|\b[kM]?B\b|\bGB\b|SHA-256|GPU|JPEG|PNG|WebP|MP4|\bw\d\b|\bann\b"
    r"|new driver at noon|attic|bob|the roof leaks"
    r"|three faults on two jobs|the farm|NVIDIA H100 80GB HBM3"
    r"|README|sqlite|farm \w+|\bEnter\b|\bTab\b|\bEsc\b|/jobs/\S+|\b[0-9a-f]{32,}\b|shot=\d+|INT8"
)
TEXT = """() => {
    const texts = [];
    const seen = new Set(["SCRIPT", "STYLE", "TEMPLATE", "KBD", "CODE", "SAMP"]);
    const walk = (node) => {
        if (node.nodeType === 3) return texts.push(node.textContent);
        if (seen.has(node.tagName) || node.classList?.contains("prompt")) return;
        for (const name of ["title", "aria-label", "placeholder", "alt"])
            if (node.getAttribute?.(name)) texts.push(node.getAttribute(name));
        node.childNodes.forEach(walk);
    };
    walk(document.documentElement);
    return texts.filter((text) => text.trim());
}"""


def prompts(house: House) -> list[str]:
    return [job.spec.prompt for job in jobs.find(house.farm.services.db)[0]]


def test_every_word_has_its_translation_and_is_said_somewhere() -> None:
    assert WORDS["en"].keys() == WORDS["zh"].keys()
    web = Path(farm.web.__file__).parent
    rooms = [*web.rglob("*.html"), *web.rglob("*.js"), *web.glob("*.py")]
    source = "".join(path.read_text(encoding="utf-8") for path in rooms)
    made_up = (
        "state_",
        "stage_",
        "short_",
        "outcome_",
        "wish_",
        "fit_",
        "ago_",
        "room_",
        "outage_",
        "any_",
        "check_",
    )
    known = {"live", "connecting", "reconnecting", "idle", "busy", "starting", "gone"}
    unsaid = [key for key in WORDS["en"] if not re.search(rf"\b{key}\b", source) and not key.startswith(made_up)]
    assert [key for key in unsaid if key not in known] == []
    holes = {key: set(re.findall(r"{(\w+)}", text)) for key, text in WORDS["en"].items()}
    assert holes == {key: set(re.findall(r"{(\w+)}", text)) for key, text in WORDS["zh"].items()}


def test_a_chinese_page_has_no_english_on_it(browser: Browser, house: House) -> None:
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    for path in house.paths.values():
        page.goto(house.farm.url + path)
        assert page.locator("html").get_attribute("lang") == "zh"
        texts = page.evaluate(TEXT)
        for prompt in prompts(house):
            texts = [text.replace(prompt, "").replace(prompt[:60], "") for text in texts]
        english = [text for text in texts if re.search("[A-Za-z]{2,}", SAME.sub("", text))]
        assert english == [], path
    context.close()


def test_an_english_page_has_no_chinese_on_it(browser: Browser, house: House) -> None:
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    for path in house.paths.values():
        page.goto(house.farm.url + path)
        texts = page.evaluate(TEXT)
        chinese = [text for text in texts if re.search("[\u4e00-\u9fff]", text.replace("中文", ""))]
        assert [text for text in chinese if not any(prompt[:60] in text for prompt in prompts(house))] == [], path
    context.close()


def test_the_language_is_chosen_by_a_link_kept_and_may_stand_in_the_address(browser: Browser, house: House) -> None:
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    page.goto(f"{house.farm.url}/?state=succeeded")
    page.click("text=中文")
    expect(page.locator("#render")).to_have_text("渲染")
    assert "state=succeeded" in page.url
    page.goto(f"{house.farm.url}/workers")
    expect(page.locator("h1")).to_have_text("工作进程")
    page.goto(f"{house.farm.url}/workers?lang=en")
    expect(page.locator("h1")).to_have_text("Workers")
    context.close()


def test_the_theme_is_kept(browser: Browser, house: House) -> None:
    context = browser.new_context(color_scheme="light")
    page = context.new_page()
    page.goto(house.farm.url)
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(background)
    page.click("#theme")
    dark = page.evaluate(background)
    assert dark != light
    page.goto(f"{house.farm.url}/workers")
    assert page.evaluate(background) == dark
    context.close()


WRONG = [
    {}, {"prompt": ""}, {"prompt": "a" * 300}, {"prompt": "a " * 80}, {"prompt": "a", "frames": 18},
    {"prompt": "a", "size": "big"}, {"prompt": "a", "size": "64x64"}, {"prompt": "a", "steps": 900},
    {"prompt": "a", "steps": "many"}, {"prompt": "a", "seed": -1}, {"prompt": "a", "guidance": 99},
    {"prompt": "a", "seconds": 100}, {"prompt": "a", "seconds": 1, "frames": 5}, {"prompt": "a", "image": "x"},
]  # fmt: skip


@pytest.mark.parametrize("wish", WRONG, ids=str)
def test_every_refusal_of_a_wish_is_said_in_chinese(house: House, wish: dict[str, object]) -> None:
    with pytest.raises(FarmError) as refused:
        new_job(wish, house.farm.services.models)
    for text in (refused.value.message, refused.value.next):
        assert re.search("[\u4e00-\u9fff]", said(text, "zh")), text
        assert said(text, "en") == text


def test_the_api_answers_in_the_language_that_is_asked_for(house: House) -> None:
    answer = httpx.post(f"{house.farm.url}/api/jobs", json={"prompt": ""}, headers={"Accept-Language": "zh-CN,en"})
    assert answer.json()["error"]["message"] == "提示词是空的"
    assert answer.json()["error"]["field"] == "prompt"


def test_what_a_sentence_names_is_not_touched() -> None:
    text = "2 jobs of its lane go first, and the only worker is busy. 1 attempt of it failed before."
    assert said(text, "zh") == "同一通道中有 2 个任务排在前面，唯一的工作进程正忙。此前有 1 次尝试失败。"
    assert said("w7 has been rendering it for 3 minutes: denoise, step 9 of 16.", "zh").startswith(
        "w7 已渲染 3 分钟"
    )
    assert said("Something that nobody foresaw.", "zh") == "Something that nobody foresaw."
