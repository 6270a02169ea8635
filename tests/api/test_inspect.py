"""A finished video dropped on the page gives its settings back."""

import pytest
from starlette.testclient import TestClient

from tests.served.machine import Machine

WISH = {"prompt": "一只红色的风筝 🪁", "seed": 41, "steps": 3}


def video(client: TestClient, machine: Machine) -> tuple[dict, bytes]:
    job = client.post("/api/jobs", json=WISH).json()
    machine.take()
    machine.finish()
    return job, client.get(f"/api/jobs/{job['id']}/content").content


def test_a_video_gives_back_the_wish_that_made_it(client: TestClient, machine: Machine) -> None:
    job, data = video(client, machine)
    answer = client.post("/api/inspect", files={"file": ("ring.mp4", data, "video/mp4")})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["job"], told["model"], told["label"]["Label"]) == (job["id"], job["model"], "1")
    assert told["settings"].items() >= WISH.items()
    assert (told["video"]["frames"], told["video"]["sound"]) == (job["frames"], False)
    again = client.post("/api/jobs", json=told["settings"])
    assert again.status_code == 201, again.text
    same = ("prompt", "model", "size", "frames", "steps", "seed", "guidance")
    assert [again.json()[name] for name in same] == [job[name] for name in same]


def test_its_beginning_is_enough(client: TestClient, machine: Machine) -> None:
    job, data = video(client, machine)
    head = data[: data.index(b"mdat") + 4]
    assert client.post("/api/inspect", content=head).json()["job"] == job["id"]


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\0\0\0\x10ftypisom\0\0\0\0", b"\0\0\0\x10ftypisom\0\0\0\0" + bytes(99)]
)
def test_what_is_no_video_of_ours_is_refused_in_words(client: TestClient, data: bytes) -> None:
    answer = client.post("/api/inspect", content=data)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_video")


def test_too_much_is_refused(client: TestClient) -> None:
    assert client.post("/api/inspect", content=bytes(34 * 2**20)).status_code == 413


def test_strip_and_small_thumbnail_are_served(client: TestClient, machine: Machine) -> None:
    job, _ = video(client, machine)
    artifact = client.get(f"/api/jobs/{job['id']}").json()["artifact"]
    pictures = {name: client.get(artifact[name]) for name in ("poster_url", "thumbnail_url", "strip_url")}
    assert {answer.headers["content-type"] for answer in pictures.values()} == {"image/jpeg"}
    assert len({answer.headers["etag"] for answer in pictures.values()}) == 3
