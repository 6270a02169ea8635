"""No request whatever makes the server answer 5xx: methods, paths, queries, headers and bodies at random."""

import json
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from farm.domain.fields import FIELDS
from tests.served.machine import Machine

WORDS = st.sampled_from(
    ["api", "v1", "jobs", "videos", "batches", "workers", "models", "health", "content", "thumbnail",
     "preview", "cancel", "hold", "release", "retry", "rerun", "static", "submit",
     "..", "%00", "%2f", "job_", "readyz"]
)  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PATHS = st.lists(WORDS | TEXT.map(lambda s: quote(s, safe="")), max_size=5).map(
    lambda parts: "/" + "/".join(parts).lstrip("/")
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("96x96"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
BODIES = st.dictionaries(st.sampled_from([*FIELDS, "name", "rows", "seed"]) | TEXT, VALUES, max_size=6)
QUERIES = st.dictionaries(
    st.sampled_from(["state", "limit", "after", "order", "search", "q", "epoch", "step", "variant", "batch"]),
    TEXT | st.integers().map(str) | st.sampled_from(["queued", "asc", "video", "9" * 30]),
    max_size=4,
)
METHODS = st.sampled_from(["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"])
RANGES = st.none() | st.sampled_from(["bytes=0-", "bytes=-1", "bytes=5-1", "bytes=\u0663-", "x"]).map(
    lambda r: r.encode("ascii", "ignore").decode()
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(method=METHODS, path=PATHS, query=QUERIES, body=BODIES, asked=RANGES, data=st.data())
def test_no_request_gets_a_5xx(
    client: TestClient,
    machine: Machine,
    method: str,
    path: str,
    query: dict[str, str],
    body: dict[str, Any],
    asked: str | None,
    data: st.DataObject,
) -> None:
    jobs = client.get("/api/jobs").json()["data"]
    if not jobs:
        client.post("/api/jobs", json={"prompt": "a kite"})
        machine.take()
        jobs = [{"id": machine.finish().key.split("/")[1]}]
    path = path.replace("job_", jobs[0]["id"])
    if data.draw(st.booleans()):
        path = data.draw(st.sampled_from(ROUTES)).replace("{id}", jobs[0]["id"])
    if path.rstrip("/").endswith("/events"):
        return  # endless by design; its own tests read it
    content = json.dumps(body).encode()
    headers = {"Range": asked} if asked else {}
    answer = client.request(method, path, params=query, content=content, headers=headers)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400 and path.startswith(("/api", "/v1")) and method != "HEAD":
        assert answer.json()["error"]["code"]


ROUTES = [
    "/", "/submit", "/jobs/{id}", "/jobs/{id}/hold", "/api/jobs", "/api/jobs/{id}", "/api/jobs/{id}/rerun",
    "/api/jobs/{id}/content", "/api/jobs/{id}/preview", "/api/batches", "/v1/videos", "/v1/videos/{id}",
    "/v1/videos/{id}/content", "/api/images", "/api/images/{id}", "/api/images/{id}/thumbnail", "/api/models",
]  # fmt: skip
