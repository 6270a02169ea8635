"""The first frame on the page: picked, dropped or pasted, previewed, sent with the job, and shown on its page."""

from playwright.sync_api import Page, expect

from farm.db import jobs
from tests.browser.conftest import Visit
from tests.library import I2V
from tests.served.farm import Served
from tests.served.pictures import offer_i2v, picture

FILE = {"name": "frame.png", "mimeType": "image/png", "buffer": picture()}
DELIVER = """([kind, target, bytes]) => {
    const held = new DataTransfer();
    held.items.add(new File([new Uint8Array(bytes)], "given.png", { type: "image/png" }));
    const event = kind === "paste"
        ? new ClipboardEvent("paste", { clipboardData: held, bubbles: true, cancelable: true })
        : new DragEvent(kind, { dataTransfer: held, bubbles: true, cancelable: true });
    document.querySelector(target).dispatchEvent(event);
}"""


def choose(page: Page, model: str) -> None:
    page.locator("#settings > summary").click()
    page.select_option("[name=model]", model)
    page.locator("#settings > summary").click()


def deliver(page: Page, kind: str, target: str) -> None:
    page.evaluate(DELIVER, [kind, target, list(picture())])


def test_the_field_is_there_only_for_models_that_begin_with_an_image(visit: Visit, served: Served) -> None:
    offer_i2v(served.services)
    page = visit.open()
    expect(page.locator("#first-frame")).to_be_hidden()
    choose(page, I2V.name)
    expect(page.locator("#first-frame")).to_be_visible()
    expect(page.locator("#summary")).to_contain_text("the image's shape")
    choose(page, "demo-t2v")
    expect(page.locator("#first-frame")).to_be_hidden()


def test_a_farm_without_such_a_model_never_shows_it(visit: Visit) -> None:
    expect(visit.open().locator("#first-frame")).to_be_hidden()


def test_a_picked_image_is_previewed_sent_and_shown_on_the_jobs_page(visit: Visit, served: Served) -> None:
    offer_i2v(served.services)
    page = visit.open()
    choose(page, I2V.name)
    page.set_input_files("#image-file", [FILE])
    preview = page.locator("#image-preview")
    expect(preview).to_be_visible()
    expect(page.locator("#image-said")).to_have_text("frame.png, 120 × 60")
    assert preview.evaluate("i => i.decode().then(() => i.naturalWidth)") == 120
    page.select_option("#fit", "pad")
    page.fill("#prompt", "a red circle moves left")
    page.keyboard.press("Enter")
    expect(page.locator(".row")).to_have_count(1)
    expect(page.locator("#hint")).to_contain_text("112x48, after the shape of the image")
    (job,), _ = jobs.find(served.services.db)
    assert (job.spec.fit, job.spec.width, job.spec.height) == ("pad", 112, 48)
    assert job.spec.image == page.locator("#image").input_value()
    page.goto(f"{served.url}/jobs/{job.id}")
    shown = page.locator(".input-image")
    expect(shown).to_be_visible()
    assert shown.evaluate("i => i.decode().then(() => i.naturalWidth)") == 120
    assert f'"image": "{job.spec.image}"' in (page.locator("#copy").get_attribute("data-settings") or "")


def test_an_image_may_be_dropped_or_pasted_and_taken_away_again(visit: Visit, served: Served) -> None:
    offer_i2v(served.services)
    page = visit.open()
    choose(page, I2V.name)
    for kind, target in (("drop", "#prompt"), ("paste", "#prompt")):
        deliver(page, kind, target)
        expect(page.locator("#image-said")).to_have_text("given.png, 120 × 60")
        page.click("#image-remove")
        expect(page.locator("#image-preview")).to_be_hidden()
        assert page.locator("#image").input_value() == ""


def test_a_file_that_is_no_image_is_refused_at_once_and_in_words(visit: Visit, served: Served) -> None:
    offer_i2v(served.services)
    page = visit.open()
    choose(page, I2V.name)
    page.set_input_files("#image-file", [{"name": "a.gif", "mimeType": "image/gif", "buffer": b"GIF89a..."}])
    expect(page.locator("#form-error")).to_contain_text("the image is a GIF: send it as JPEG, PNG or WebP")
    expect(page.locator("#image-preview")).to_be_hidden()
    page.fill("#prompt", "it moves")
    page.keyboard.press("Enter")
    expect(page.locator("#image-file")).to_be_focused()
    page.locator("#prompt").press("Enter")
    expect(page.locator("#form-error")).to_contain_text("needs an image")


def test_what_belongs_to_another_model_is_not_sent(visit: Visit, served: Served) -> None:
    offer_i2v(served.services)
    page = visit.open()
    choose(page, I2V.name)
    page.set_input_files("#image-file", [FILE])
    expect(page.locator("#image-preview")).to_be_visible()
    page.select_option("#fit", "pad")
    choose(page, "demo-t2v")
    page.fill("#prompt", "a red circle")
    page.keyboard.press("Enter")
    expect(page.locator(".row")).to_have_count(1)
    (job,), _ = jobs.find(served.services.db)
    assert (job.spec.model, job.spec.image) == ("demo-t2v", None)


def test_the_form_works_without_the_script(served: Served) -> None:
    import http.client

    offer_i2v(served.services)
    limit = "b0undary"
    fields = {"prompt": "it moves", "model": I2V.name, "fit": "", "image": "", "size": "", "negative_prompt": ""}
    body = b"".join(
        f'--{limit}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    )
    head = 'Content-Disposition: form-data; name="input_reference"; filename="a.png"\r\nContent-Type: image/png'
    body += f"--{limit}\r\n{head}\r\n\r\n".encode() + picture() + f"\r\n--{limit}--\r\n".encode()
    connection = http.client.HTTPConnection("127.0.0.1", served.port)
    connection.request("POST", "/submit", body, {"Content-Type": f"multipart/form-data; boundary={limit}"})
    assert connection.getresponse().status == 303
    connection.close()
    (job,), _ = jobs.find(served.services.db)
    assert (job.spec.width, job.spec.height, job.spec.fit) == (112, 48, "crop")
