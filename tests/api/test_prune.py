"""`POST /api/prune`: what goes is gone from lists and store at once, for whom it is theirs to remove."""

from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from farm.api.app import create_app
from farm.api.services import Services
from farm.db import jobs, pruning, tokens
from farm.domain.errors import StorageUnavailable
from farm.domain.person import Role
from farm.storage.folder import FolderStore
from tests.served.machine import Machine

ALL = {"states": ["succeeded", "failed", "cancelled"]}


def made(client: TestClient, machine: Machine) -> str:
    job = client.post("/api/jobs", json={"prompt": "a kite"}).json()["id"]
    machine.take()
    machine.step(3)
    machine.finish()
    return str(job)


def prune(client: TestClient, **body: Any) -> Any:
    answer = client.post("/api/prune", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_video_goes_with_all_that_lies_beside_it(
    client: TestClient, services: Services, machine: Machine
) -> None:
    job, other = made(client, machine), made(client, machine)
    lain = [file for file in services.store.find(f"videos/{job}/")]
    assert {file.key.rpartition("/")[2] for file in lain} >= {
        "video.mp4", "poster.jpg", "thumbnail.jpg", "strip.jpg", "preview-3.jpg"
    }  # fmt: skip
    planned = prune(client, **ALL)
    assert (planned["dry_run"], planned["jobs"], planned["more"]) == (True, 2, True)
    assert len(list(services.store.list("videos/"))) == 2 * len(lain)
    done = prune(client, **ALL, dry_run=False, limit=1)
    assert (done["jobs"], done["bytes"], done["more"]) == (1, sum(file.bytes for file in lain), True)
    assert list(services.store.list(f"videos/{job}/")) == []
    assert client.get(f"/api/jobs/{job}").status_code == 404
    assert client.get(f"/api/jobs/{other}/content").status_code == 200
    assert prune(client, **ALL, dry_run=False, as_of=planned["as_of"])["more"] is False
    assert client.get("/api/jobs").json()["data"] == []


def test_a_job_that_is_kept_says_when_its_video_was_removed(client: TestClient, machine: Machine) -> None:
    job = made(client, machine)
    prune(client, **ALL, keep_rows=True, dry_run=False)
    shown = client.get(f"/api/jobs/{job}").json()
    assert (shown["state"], shown["artifact"]) == ("succeeded", None)
    day = shown["video_removed_at"][:10]
    for path in ("content", "thumbnail", "strip", "content?variant=players"):
        gone = client.get(f"/api/jobs/{job}/{path}")
        assert gone.status_code == 410
        error = gone.json()["error"]
        assert (error["code"], error["next"]) == ("video_removed", f"render it again: farm rerun {job}")
        assert error["message"] == f"the video of job {job} was removed on {day}"
    page = client.get(f"/jobs/{job}").text
    assert "Its video was removed to make room" in page
    assert 'id="download"' not in page
    assert client.get("/").status_code == 200
    assert client.post(f"/api/jobs/{job}/rerun", json={}).status_code == 201


def test_without_a_filter_nothing_happens(client: TestClient) -> None:
    answer = client.post("/api/prune", json={"dry_run": False})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "older_than")


def test_a_store_that_is_away_is_found_out_before_anything_is_removed(
    services: Services, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(create_app(services)) as client:
        job = made(client, machine)

        def away(self: FolderStore) -> None:
            raise StorageUnavailable("the store is away", "wait")

        with monkeypatch.context() as patch:
            patch.setattr(FolderStore, "check", away)
            services.store_watch._asked_at = -1e9
            assert client.post("/api/prune", json={**ALL, "dry_run": False}).status_code == 503
        assert client.get(f"/api/jobs/{job}/content").status_code == 200


def test_a_job_that_is_retried_while_others_are_removed_stays(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [client.post("/api/jobs", json={"prompt": "a kite"}).json()["id"] for _ in range(3)]
    for job in there:
        client.post(f"/api/jobs/{job}/cancel")
    look = pruning.candidates

    def then_retried(*asked: Any) -> Any:
        found = look(*asked)
        jobs.retry(services.db, there[1])
        return found

    monkeypatch.setattr(pruning, "candidates", then_retried)
    assert prune(client, **ALL, dry_run=False)["jobs"] == 2
    assert [job["id"] for job in client.get("/api/jobs").json()["data"]] == [there[1]]


def test_artists_prune_what_is_theirs_and_operators_everything(services: Services) -> None:
    roles = {"mei": Role.ARTIST, "jo": Role.ARTIST, "op": Role.OPERATOR}
    headers = {
        name: {"Authorization": f"Bearer {tokens.create(services.db, name, role, 'test').secret}"}
        for name, role in roles.items()
    }
    with TestClient(create_app(replace(services, public=True))) as client:

        def asked(name: str, **body: Any) -> Any:
            return client.post("/api/prune", json={**ALL, **body}, headers=headers[name])

        for name in ("mei", "jo"):
            job = client.post("/api/jobs", json={"prompt": "a kite"}, headers=headers[name]).json()["id"]
            client.post(f"/api/jobs/{job}/cancel", headers=headers[name])
        refused = asked("mei", owner="jo", dry_run=False)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_allowed")
        assert asked("mei", dry_run=False).json()["jobs"] == 1
        assert asked("mei").json()["jobs"] == 0
        assert asked("op").json()["jobs"] == 1
        assert asked("op", owner="mei").json()["jobs"] == 0
        assert client.post("/api/prune", json=ALL).status_code == 401
