"""`/v1/videos`: the shape, the status words and the files that existing clients expect."""

import io

import pytest
from PIL import Image
from starlette.testclient import TestClient

from farm.api.services import Services
from farm.domain.job import Artifact
from tests.served.machine import Machine


def submit(client: TestClient, prompt: str = "a red kite") -> str:
    answer = client.post("/v1/videos", json={"prompt": prompt})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


@pytest.fixture
def made(client: TestClient, machine: Machine) -> tuple[str, Artifact]:
    video = submit(client)
    machine.take()
    return video, machine.finish()


def test_a_video_has_exactly_the_fields_of_the_known_shape(client: TestClient) -> None:
    video = client.post("/v1/videos", json={"prompt": "a kite", "size": "192x192", "seconds": "2"}).json()
    assert set(video) == {
        "id", "object", "status", "progress", "created_at", "completed_at", "expires_at", "error", "model",
        "prompt", "seconds", "size", "remixed_from_video_id",
    }  # fmt: skip
    assert (video["object"], video["status"], video["seconds"]) == ("video", "queued", "2")
    assert isinstance(video["created_at"], int)


def test_a_multipart_form_works_as_it_does_for_the_original(client: TestClient) -> None:
    answer = client.post("/v1/videos", files={"prompt": (None, "一只风筝"), "seconds": (None, "2")})
    assert answer.status_code == 200
    assert answer.json()["prompt"] == "一只风筝"
    refused = client.post("/v1/videos", data={"prompt": "a"}, files={"input_reference": ("a.png", b"x")})
    assert refused.json()["error"]["field"] == "input_reference"


def test_the_status_is_only_ever_one_of_the_four_known_words(client: TestClient, machine: Machine) -> None:
    def status(video: str) -> str:
        return client.get(f"/v1/videos/{video}").json()["status"]

    first, second, third = submit(client), submit(client), submit(client)
    client.post(f"/api/jobs/{third}/hold")
    assert (status(first), status(third)) == ("queued", "queued")
    machine.take()
    assert status(first) == "in_progress"
    machine.finish()
    assert status(first) == "completed"
    machine.take()
    machine.fail()
    failed = client.get(f"/v1/videos/{second}").json()
    assert (failed["status"], failed["error"]["code"]) == ("failed", "prompt_too_long")
    client.post(f"/api/jobs/{third}/cancel")
    cancelled = client.get(f"/v1/videos/{third}").json()
    assert (cancelled["status"], cancelled["error"]["code"]) == ("failed", "cancelled")


def test_the_list_is_paged_by_the_last_id_in_both_orders(client: TestClient) -> None:
    made = [submit(client, f"kite {i}") for i in range(3)]
    page = client.get("/v1/videos?limit=2&order=asc").json()
    assert ([v["id"] for v in page["data"]], page["has_more"]) == (made[:2], True)
    rest = client.get(f"/v1/videos?limit=2&order=asc&after={page['last_id']}").json()
    assert ([v["id"] for v in rest["data"]], rest["has_more"]) == (made[2:], False)
    assert client.get("/v1/videos").json()["first_id"] == made[2]


def test_delete_takes_a_finished_video_out_of_every_list(client: TestClient, made: tuple[str, Artifact]) -> None:
    video, _ = made
    gone = client.delete(f"/v1/videos/{video}").json()
    assert gone == {"id": video, "object": "video.deleted", "deleted": True}
    assert client.get(f"/v1/videos/{video}").status_code == 404
    assert client.get("/v1/videos").json()["data"] == []


def test_delete_stops_a_running_video_first(client: TestClient, machine: Machine, services: Services) -> None:
    from farm.db import leases
    from farm.domain.states import Order
    from farm.domain.worker import Beat

    video = submit(client)
    claim = machine.take()
    assert client.delete(f"/v1/videos/{video}").json()["deleted"]
    beat = Beat("w1", claim.job, claim.epoch, None, (), "busy", None, 0)
    assert leases.renew(services.db, [beat]) == {(claim.job, claim.epoch): Order.CANCEL}


def test_the_content_is_the_stored_file_with_its_checksum_as_etag(
    client: TestClient, services: Services, made: tuple[str, Artifact]
) -> None:
    video, artifact = made
    answer = client.get(f"/v1/videos/{video}/content")
    assert answer.content == b"".join(services.store.open(artifact.key))
    assert answer.headers["etag"] == f'"{artifact.sha256}"'
    assert answer.headers["content-type"] == "video/mp4"
    again = client.get(f"/v1/videos/{video}/content", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-99", 0, 100),
        ("bytes=100-", 100, None),
        ("bytes=-50", -50, None),
        ("bytes=10-99999999", 10, None),
    ],
)
def test_a_range_gives_those_bytes_and_says_so(
    client: TestClient, made: tuple[str, Artifact], asked: str, start: int, end: int | None
) -> None:
    url = f"/v1/videos/{made[0]}/content"
    whole = client.get(url).content
    part = client.get(url, headers={"Range": asked})
    assert part.status_code == 206
    assert part.content == whole[start:end]
    first = start % len(whole)
    assert part.headers["content-range"] == f"bytes {first}-{first + len(part.content) - 1}/{len(whole)}"


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0"])
def test_a_range_outside_the_file_is_refused_with_its_size(
    client: TestClient, made: tuple[str, Artifact], asked: str
) -> None:
    answer = client.get(f"/v1/videos/{made[0]}/content", headers={"Range": asked})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{made[1].bytes}"
    assert answer.json()["error"]["code"] == "range_not_satisfiable"


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=a-b", "bytes=0-1,4-5", "items=0-1", "bytes=-"])
def test_a_range_that_makes_no_sense_gives_the_whole_file(
    client: TestClient, made: tuple[str, Artifact], asked: str
) -> None:
    answer = client.get(f"/v1/videos/{made[0]}/content", headers={"Range": asked})
    assert (answer.status_code, len(answer.content)) == (200, made[1].bytes)


def test_a_changed_file_is_sent_whole_to_who_resumes_another(
    client: TestClient, made: tuple[str, Artifact]
) -> None:
    headers = {"Range": "bytes=0-9", "If-Range": '"another"'}
    assert client.get(f"/v1/videos/{made[0]}/content", headers=headers).status_code == 200


def test_thumbnail_and_spritesheet_are_pictures(client: TestClient, made: tuple[str, Artifact]) -> None:
    url = f"/v1/videos/{made[0]}/content"
    poster = Image.open(io.BytesIO(client.get(url, params={"variant": "thumbnail"}).content))
    assert (poster.format, poster.size) == ("JPEG", (192, 192))
    sheet = Image.open(io.BytesIO(client.get(url, params={"variant": "spritesheet"}).content))
    assert sheet.format == "PNG"
    assert sheet.width >= 33 * 192


def test_a_download_is_named_after_its_prompt(client: TestClient, machine: Machine) -> None:
    video = submit(client, '一只 "red" kite / ../x')
    machine.take()
    machine.finish()
    header = client.get(f"/api/jobs/{video}/content?download=true").headers["content-disposition"]
    assert header.startswith("attachment; ")
    assert "%E4%B8%80%E5%8F%AA-red-kite-x_" in header
    assert ".." not in header


def test_content_that_is_not_there_yet_or_any_more_says_so(
    client: TestClient, machine: Machine, services: Services
) -> None:
    video = submit(client)
    early = client.get(f"/v1/videos/{video}/content")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "not_ready")
    machine.take()
    services.store.delete([machine.finish().key])
    late = client.get(f"/v1/videos/{video}/content")
    assert (late.status_code, late.json()["error"]["code"]) == (410, "content_gone")
