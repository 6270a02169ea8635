"""The form: limits said and the nearest value offered, words that a model does not know, settings that stay."""

import httpx
from playwright.sync_api import Page, expect

from farm.db import jobs
from tests.browser.conftest import Visit
from tests.browser.test_image import deliver
from tests.library import I2V
from tests.served.farm import Served
from tests.served.machine import Machine
from tests.served.pictures import offer_i2v

expect.set_options(timeout=15_000)


def unfold(page: Page) -> None:
    page.click("#settings > summary")


def test_what_cannot_be_rendered_is_explained_and_the_nearest_is_one_press_away(
    visit: Visit, served: Served
) -> None:
    page = visit.open()
    unfold(page)
    page.fill("[name=frames]", "15")
    offer = page.locator("#offers button")
    expect(offer).to_have_text("Use 33")
    expect(page.locator("[name=frames]")).to_have_attribute("aria-invalid", "true")
    offer.click()
    expect(page.locator("[name=frames]")).to_have_value("33")
    expect(page.locator("#offers")).to_be_empty()
    page.fill("[name=size]", "1920x1080")
    expect(offer).to_have_text("Use 192x192")
    offer.click()
    page.fill("[name=steps]", "99")
    expect(offer).to_have_text("Use 4")
    page.fill("[name=steps]", "")
    page.fill("[name=seconds]", "2")
    expect(page.locator("[name=frames]")).to_have_value("")  # the one that was typed last counts
    page.fill("#prompt", "a red circle")
    page.keyboard.press("Enter")
    expect(page.locator(".row")).to_have_count(1)
    (job,), _ = jobs.find(served.services.db)
    assert job.spec.frames == 33


def test_what_the_page_offers_is_what_the_server_accepts(visit: Visit, served: Served) -> None:
    offer_i2v(served.services)
    page = visit.open()
    unfold(page)
    page.select_option("[name=model]", I2V.name)
    for field, wrong in (("size", "1234x77"), ("size", "16x4000"), ("frames", "2"), ("steps", "400")):
        page.fill(f"[name={field}]", wrong)
        offered = page.locator("#offers button").get_attribute("data-value")
        wish = {"prompt": "a", "model": I2V.name, "image": "0" * 64, field: wrong}
        refused = httpx.post(f"{served.url}/api/jobs", json={**wish, field: offered}).json()["error"]
        assert refused["field"] == "image", refused  # nothing else is wrong any more
        page.fill(f"[name={field}]", "")


def test_a_shape_fills_in_its_size(visit: Visit, served: Served) -> None:
    offer_i2v(served.services)
    page = visit.open()
    unfold(page)
    expect(page.locator("#shape")).to_be_hidden()  # the demo model has one
    page.select_option("[name=model]", I2V.name)
    page.select_option("#aspect", label="16:9")
    width, height = map(int, page.locator("[name=size]").input_value().split("x"))
    assert width > height
    expect(page.locator("#offers")).to_be_empty()


def test_words_that_the_model_does_not_know_are_named_while_they_are_typed(visit: Visit) -> None:
    page = visit.open()
    page.locator("#prompt").press_sequentially("a purple dragon")
    expect(page.locator("#hint")).to_be_hidden()  # it may become another word
    page.locator("#prompt").press_sequentially(" moving")
    expect(page.locator("#hint-text")).to_have_text("demo-t2v does not know: dragon.")
    page.click("#known summary")
    expect(page.locator("#known-words")).to_contain_text("circle")
    page.fill("#prompt", "a purple star moving ")
    expect(page.locator("#hint")).to_be_hidden()


def test_several_are_sent_with_seeds_one_after_another(visit: Visit, served: Served) -> None:
    page = visit.open()
    unfold(page)
    page.fill("[name=seed]", "40")
    page.fill("[name=count]", "3")
    page.fill("#prompt", "a red circle")
    page.keyboard.press("Enter")
    expect(page.locator(".row")).to_have_count(3)
    expect(page.locator("#hint-text")).to_have_text("3 jobs sent.")
    assert sorted(job.spec.seed for job in jobs.find(served.services.db)[0]) == [40, 41, 42]


def test_project_tags_and_priority_go_with_the_job(visit: Visit, served: Served) -> None:
    page = visit.open()
    unfold(page)
    page.click("#advanced > summary")
    page.fill("[name=project]", "trailer")
    page.fill("[name=tags]", "shot=12a, take=3")
    page.fill("[name=priority]", "5")
    page.fill("#prompt", "a red circle")
    page.keyboard.press("Enter")
    expect(page.locator(".row")).to_have_count(1)
    (job,), _ = jobs.find(served.services.db)
    assert (job.project, dict(job.tags), job.priority) == ("trailer", {"shot": "12a", "take": "3"}, 5)


def test_the_form_survives_a_reload_and_can_be_cleared(visit: Visit) -> None:
    page = visit.open()
    page.fill("#prompt", "一个红色圆形")
    unfold(page)
    page.fill("[name=seed]", "7")
    page.reload()
    expect(page.locator("#prompt")).to_have_value("一个红色圆形")
    expect(page.locator("#summary")).to_contain_text("seed 7")
    unfold(page)
    page.click("#advanced > summary")
    page.click("#clear")
    expect(page.locator("#prompt")).to_have_value("")
    page.reload()
    expect(page.locator("[name=seed]")).to_have_value("")


def test_the_settings_of_a_job_are_taken_over_into_the_form(visit: Visit, served: Served) -> None:
    wish = {"prompt": "a red circle", "seed": 5, "steps": 3, "tags": {"shot": "1"}, "project": "trailer"}
    job = httpx.post(f"{served.url}/api/jobs", json=wish).json()["id"]
    page = visit.open(f"/jobs/{job}")
    page.click("#reuse")
    expect(page.locator("#prompt")).to_have_value("a red circle")
    expect(page.locator("[name=steps]")).to_have_value("3")
    expect(page.locator("[name=tags]")).to_have_value("shot=1")


def test_an_image_that_is_dropped_chooses_a_model_that_begins_with_one(visit: Visit, served: Served) -> None:
    offer_i2v(served.services)
    page = visit.open()
    deliver(page, "drop", "#prompt")
    expect(page.locator("#image-said")).to_have_text("given.png, 120 × 60")
    expect(page.locator("[name=model]")).to_have_value(I2V.name)


def test_a_finished_video_gives_its_settings_back(visit: Visit, served: Served, machine: Machine) -> None:
    wish = {"prompt": "一个红色的星星", "seed": 11, "steps": 3}
    job = httpx.post(f"{served.url}/api/jobs", json=wish).json()["id"]
    machine.take()
    machine.finish()
    content = httpx.get(f"{served.url}/api/jobs/{job}/content").content
    page = visit.open()
    page.set_input_files("#restore", [{"name": "star.mp4", "mimeType": "video/mp4", "buffer": content}])
    expect(page.locator("#prompt")).to_have_value("一个红色的星星")
    expect(page.locator("[name=seed]")).to_have_value("11")
    expect(page.locator("[name=steps]")).to_have_value("3")
    expect(page.locator("#hint-text")).to_have_text("Settings of star.mp4 are in the form.")
    foreign = {"name": "cat.mp4", "mimeType": "video/mp4", "buffer": b"\0" * 99}
    page.set_input_files("#restore", [foreign])
    expect(page.locator("#form-error")).to_be_visible()
    expect(page.locator("#prompt")).to_have_value("一个红色的星星")


def test_several_also_without_the_script(served: Served) -> None:
    form = {"prompt": "a red circle", "count": "2", "seed": "5", "tags": "shot=1", "seconds": "", "size": ""}
    assert httpx.post(f"{served.url}/submit", data=form).status_code == 303
    made, _ = jobs.find(served.services.db)
    assert sorted(job.spec.seed for job in made) == [5, 6]
    assert dict(made[0].tags) == {"shot": "1"}
    for wrong in ({"count": "99"}, {"tags": "nonsense"}, {"seed": "many"}):
        assert httpx.post(f"{served.url}/submit", data={**form, **wrong}).status_code == 422
