"""First frames over HTTP: uploaded once, named by digest, or sent along as existing clients do."""

import hashlib
from typing import Any

import pytest
from starlette.testclient import TestClient

from farm.api import body
from farm.api.services import Services
from farm.db import jobs
from farm.media import image
from tests.library import I2V
from tests.served.pictures import offer_i2v, picture

WISH = {"prompt": "a red circle moves left", "model": I2V.name}


@pytest.fixture(autouse=True)
def i2v(services: Services) -> None:
    offer_i2v(services)


def upload(client: TestClient, data: bytes | None = None) -> dict[str, Any]:
    answer = client.post("/api/images", content=data or picture())
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_an_uploaded_image_is_kept_by_the_digest_of_its_pixels_as_png(client: TestClient) -> None:
    first, again = upload(client), upload(client)
    assert first == again
    assert (first["width"], first["height"]) == (120, 60)
    answer = client.get(first["url"])
    assert hashlib.sha256(answer.content).hexdigest() == first["digest"]
    assert (answer.headers["content-type"], answer.content[:4]) == ("image/png", b"\x89PNG")
    assert client.get(first["thumbnail_url"]).headers["content-type"] == "image/jpeg"
    formed = client.post("/api/images", files={"image": ("a.png", picture())})
    assert formed.json()["digest"] == first["digest"]


@pytest.mark.parametrize(
    "path", ["/api/images/nothing", f"/api/images/{'0' * 64}", f"/api/images/{'0' * 64}/thumbnail"]
)
def test_an_image_that_is_not_there_is_not_found(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("route", ["/v1/videos", "/api/jobs"])
def test_an_image_is_sent_along_as_a_file_of_the_form(client: TestClient, services: Services, route: str) -> None:
    answer = client.post(route, data=WISH, files={"input_reference": ("a.png", picture(), "image/png")})
    assert answer.status_code in {200, 201}, answer.text
    job = jobs.get(services.db, answer.json()["id"])
    assert job.spec.image == upload(client)["digest"]
    assert (job.spec.width, job.spec.height) == (112, 48)
    assert answer.json()["size"] == "112x48"


def test_a_video_of_an_image_has_the_known_shape(client: TestClient) -> None:
    plain = client.post("/v1/videos", json={"prompt": "a kite"}).json()
    files = {"input_reference": ("a.png", picture(), "image/png")}
    assert set(client.post("/v1/videos", data=WISH, files=files).json()) == set(plain)


def test_the_size_follows_the_image_and_the_answer_says_so(client: TestClient) -> None:
    digest = upload(client)["digest"]
    job = client.post("/api/jobs", json={**WISH, "image": digest}).json()
    assert job["hint"] == "The video is 112x48, after the shape of the image; a size fixes it."
    assert job["image"]["digest"] == digest
    assert job["image"]["fit"] == "crop"
    fixed = client.post("/api/jobs", json={**WISH, "image": digest, "size": "64x96", "fit": "pad"}).json()
    assert (fixed["size"], fixed["image"]["fit"], fixed["hint"]) == ("64x96", "pad", None)


@pytest.mark.parametrize(
    ("wish", "field", "words"),
    [
        (WISH, "image", "needs an image"),
        ({**WISH, "image": "0" * 64}, "image", "has no image"),
        ({**WISH, "image": "cat.png"}, "image", "not 'cat.png'"),
        ({"prompt": "a", "image": "0" * 64}, "image", "from text only"),
        ({"prompt": "a", "fit": "pad"}, "fit", "how an image fills"),
    ],
)
def test_a_wrong_image_field_is_refused_by_name(
    client: TestClient, wish: dict[str, Any], field: str, words: str
) -> None:
    answer = client.post("/api/jobs", json=wish)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["field"] == field
    assert words in error["message"]


def test_a_broken_file_is_the_senders_mistake_and_nothing_is_kept(client: TestClient, services: Services) -> None:
    for files in (
        {"input_reference": ("a.png", picture()[:90])},
        {"input_reference": ("a.heic", b"\0\0\0\x18ftypheic")},
    ):
        answer = client.post("/v1/videos", data=WISH, files=files)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_image")
        assert answer.json()["error"]["field"] == "input_reference"
    assert client.post("/api/images", content=b"hello").json()["error"]["code"] == "invalid_image"
    assert list(services.store.list("images/")) == []


def test_an_image_for_a_model_of_text_is_refused_before_it_is_kept(client: TestClient, services: Services) -> None:
    answer = client.post("/v1/videos", data={"prompt": "a"}, files={"input_reference": ("a.png", picture())})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "input_reference")
    assert list(services.store.list("images/")) == []


def test_an_empty_file_field_of_a_form_is_no_image(client: TestClient) -> None:
    answer = client.post("/v1/videos", data={"prompt": "a kite"}, files={"input_reference": ("", b"")})
    assert answer.status_code == 200


def test_more_than_the_limit_is_refused_while_it_arrives(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "MAX_FILE_BODY", 1000)
    assert client.post("/api/images", content=b"x" * 1001).status_code == 413
    monkeypatch.setattr(image, "MAX_BYTES", 10)
    answer = client.post("/api/images", content=b"x" * 11)
    assert answer.json()["error"]["code"] == "invalid_image"


def test_a_rerun_keeps_image_and_fit_and_a_new_image_brings_its_own_shape(client: TestClient) -> None:
    wide, tall = upload(client)["digest"], upload(client, picture(60, 120))["digest"]
    job = client.post("/api/jobs", json={**WISH, "image": wide, "size": "64x96", "fit": "stretch"}).json()
    again = client.post(f"/api/jobs/{job['id']}/rerun", json={}).json()
    assert (again["image"], again["size"], again["seed"]) == (job["image"], "64x96", job["seed"])
    other = client.post(f"/api/jobs/{job['id']}/rerun", json={"image": tall}).json()
    assert (other["image"]["digest"], other["size"]) == (tall, "48x112")


def test_rows_of_a_batch_name_images_by_digest(client: TestClient, services: Services) -> None:
    digest = upload(client)["digest"]
    rows = [{**WISH, "image": digest}, {**WISH, "image": digest, "fit": "pad"}]
    done = client.post("/api/batches", json={"name": "night", "rows": rows}).json()
    assert [jobs.get(services.db, job).spec.fit for job in done["jobs"]] == ["crop", "pad"]
    assert client.post("/api/batches", json={"name": "night", "rows": rows}).json()["created"] == 0
    bad = client.post("/api/batches", json={"name": "n2", "rows": [*rows, {**WISH, "image": "0" * 64}]}).json()
    assert bad["error"]["rows"][0]["row"] == 3


def test_the_same_key_and_image_is_the_same_job(client: TestClient) -> None:
    files = {"input_reference": ("a.png", picture())}
    first, again = (
        client.post("/v1/videos", data=WISH, files=files, headers={"Idempotency-Key": "k"}).json() for _ in range(2)
    )
    assert first["id"] == again["id"]
    other = {"input_reference": ("a.png", picture(90, 60))}
    assert client.post("/v1/videos", data=WISH, files=other, headers={"Idempotency-Key": "k"}).status_code == 409
