"""Every refusal has the one shape, HEAD is GET without a body, and only the farm's own page may change it."""

from collections.abc import Awaitable, Callable

import pytest
from starlette.testclient import TestClient

from farm.api.app import create_app
from farm.api.guard import Head
from farm.api.services import Services
from tests.served.machine import Machine, in_a_loop

TABLE = [
    ("POST", "/api/jobs", {"json": {}}, 422, "invalid_prompt", "prompt"),
    ("POST", "/api/jobs", {"json": {"prompt": "a", "model": "x"}}, 422, "unknown_model", "model"),
    ("POST", "/api/jobs", {"json": {"prompt": "a", "size": "97x96"}}, 422, "invalid_request", "size"),
    ("POST", "/api/jobs", {"json": {"prompt": "a", "frames": 16}}, 422, "invalid_request", "frames"),
    ("POST", "/v1/videos", {"json": {"prompt": "a", "seconds": "60"}}, 422, "invalid_request", "seconds"),
    ("POST", "/v1/videos", {"json": {"prompt": "a", "negative_prompt": "b"}}, 422, "invalid_request",
     "negative_prompt"),
    ("POST", "/api/jobs", {"json": {"prompt": "a", "hold": "perhaps"}}, 422, "invalid_request", "hold"),
    ("POST", "/api/jobs", {"json": {"prompt": "a", "project": "a/b"}}, 422, "invalid_request", "project"),
    ("POST", "/api/jobs", {"json": {"prompt": "a", "steps": "some"}}, 422, "invalid_request", "steps"),
    ("POST", "/api/jobs", {"content": b"{"}, 400, "invalid_body", None),
    ("POST", "/api/jobs", {"content": b"[" * 100_000}, 400, "invalid_body", None),
    ("POST", "/api/jobs", {"content": b"\xff\xfe"}, 400, "invalid_body", None),
    ("POST", "/api/jobs", {"json": ["a"]}, 400, "invalid_body", None),
    ("POST", "/api/jobs", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400,
     "invalid_body", None),
    ("POST", "/api/jobs", {"content": b" " * (17 << 20)}, 413, "body_too_large", None),
    ("POST", "/api/jobs", {"json": {"prompt": "a"}, "headers": {"Idempotency-Key": "x" * 300}}, 422,
     "invalid_request", "idempotency_key"),
    ("GET", "/api/jobs/job_nosuch", {}, 404, "job_not_found", None),
    ("POST", "/api/jobs/job_nosuch/cancel", {}, 404, "job_not_found", None),
    ("GET", "/v1/videos/video_1", {}, 404, "job_not_found", None),
    ("DELETE", "/v1/videos/video_1", {}, 404, "job_not_found", None),
    ("GET", "/api/jobs?state=asleep", {}, 422, "invalid_request", "state"),
    ("GET", "/api/jobs?limit=0", {}, 422, "invalid_request", "limit"),
    ("GET", "/api/jobs?after=nope", {}, 422, "invalid_request", "after"),
    ("GET", "/api/jobs?order=up", {}, 422, "invalid_request", "order"),
    ("GET", "/v1/videos?order=up", {}, 422, "invalid_request", "order"),
    ("GET", "/api/batches/nope", {}, 404, "batch_not_found", None),
    ("POST", "/api/batches", {"json": {"name": "x", "rows": []}}, 422, "invalid_request", "rows"),
    ("POST", "/api/batches", {"json": {"rows": ["a"]}}, 422, "invalid_request", "name"),
    ("GET", "/api/nothing", {}, 404, "not_found", None),
    ("PUT", "/api/jobs", {}, 405, "method_not_allowed", None),
    ("DELETE", "/api/health", {}, 405, "method_not_allowed", None),
    ("GET", "/static/../pages.py", {}, 404, "not_found", None),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "sent", "status", "code", "field"), TABLE)
def test_a_refusal_has_a_code_a_message_and_a_next_step(
    client: TestClient, method: str, path: str, sent: dict, status: int, code: str, field: str | None
) -> None:
    answer = client.request(method, path, **sent)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error.get("field")) == (status, code, field)
    assert error["message"]
    assert error["next"]
    assert client.get("/api/jobs").json()["data"] == []  # nothing half-made is left behind


def test_a_crash_is_a_500_in_the_same_shape_without_its_traceback(services: Services) -> None:
    app = create_app(services)

    @app.get("/api/crash")
    def crash() -> None:
        raise RuntimeError("secret path /home/x")

    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/api/crash")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text


def test_who_browses_gets_a_page_instead_of_json(client: TestClient) -> None:
    for path in ("/jobs/job_nosuch", "/nowhere"):
        answer = client.get(path, headers={"Accept": "text/html"})
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/html")
        assert "All jobs" in answer.text


def test_head_answers_like_get_without_a_body_wherever_get_is(client: TestClient, machine: Machine) -> None:
    job = client.post("/api/jobs", json={"prompt": "a"}).json()["id"]
    machine.take()
    machine.step(3)
    machine.finish()
    pages = ["/", f"/jobs/{job}", "/favicon.ico", "/static/any/page.css", "/healthz", "/readyz", "/api/jobs",
             f"/api/jobs/{job}", f"/api/jobs/{job}/content", f"/api/jobs/{job}/thumbnail",
             f"/api/jobs/{job}/preview?epoch=1&step=3",
             "/api/workers", "/api/models", "/api/health", "/v1/videos", f"/v1/videos/{job}",
             f"/v1/videos/{job}/content", f"/v1/videos/{job}/content?variant=spritesheet"]  # fmt: skip
    for path in pages:
        got, head = client.get(path), client.head(path)
        assert (got.status_code, head.status_code, head.content) == (200, 200, b""), path
        assert head.headers["content-type"] == got.headers["content-type"]
    # The stream never ends: only its headers can be compared.
    assert client.head("/api/events").headers["content-type"].startswith("text/event-stream")
    assert client.head("/api/jobs/nope").status_code == 404


def test_the_body_of_a_head_stays_in_the_house() -> None:
    """Asked below the server, which would hide a body that is there."""
    sent: list[dict] = []

    async def app(scope: dict, receive: object, send: Callable[[dict], Awaitable[None]]) -> None:
        assert scope["method"] == "GET"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"body"})

    async def collect(message: dict) -> None:
        sent.append(message)

    in_a_loop(Head(app, ())({"type": "http", "method": "HEAD", "path": "/"}, None, collect))  # type: ignore[arg-type]
    assert [message.get("body") for message in sent] == [None, b""]


def test_another_page_in_the_same_browser_cannot_change_the_farm(client: TestClient) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
        answer = client.post("/api/jobs", json={"prompt": "a"}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_host")
    assert client.get("/api/jobs").json()["data"] == []
    own = client.post("/api/jobs", json={"prompt": "a"}, headers={"Origin": "http://127.0.0.1:7860"})
    assert own.status_code == 201
