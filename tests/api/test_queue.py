"""Lanes, usage, logs and filters: what waits for whom, what it has cost, and what was written about it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from farm.api.app import create_app
from farm.api.services import Services
from farm.db import tokens
from farm.domain.person import Role
from tests.served.machine import Machine

LANE = "local/default/interactive/demo-t2v"


def submit(client: TestClient, prompt: str = "a kite", **fields: object) -> str:
    return client.post("/api/jobs", json={"prompt": prompt, **fields}).json()["id"]


def test_a_closed_lane_gives_nothing_away_until_it_is_open_again(client: TestClient, machine: Machine) -> None:
    job = submit(client)
    (lane,) = client.get("/api/lanes").json()["data"]
    assert (lane["id"], lane["class"], lane["waiting"], lane["closed_reason"]) == (LANE, "interactive", 1, None)
    closed = client.patch(f"/api/lanes/{LANE}", json={"closed": True, "reason": "the licence is over"}).json()
    assert closed["closed_reason"] == "the licence is over (somebody)"
    assert "licence" in client.get(f"/api/jobs/{job}").json()["waiting_because"]["sentence"]
    with pytest.raises(AssertionError, match="nothing to claim"):
        machine.take()
    assert client.patch(f"/api/lanes/{LANE}", json={"closed": False}).json()["closed_reason"] is None
    machine.take()
    assert client.get("/api/lanes").json()["data"][0]["running"] == 1


@pytest.mark.parametrize("body", [{}, {"closed": "yes"}, {"closed": True, "reason": 5}, {"closed": True, "x": 1}])
def test_what_a_lane_cannot_be_is_refused(client: TestClient, body: dict) -> None:
    submit(client)
    assert client.patch(f"/api/lanes/{LANE}", json=body).status_code == 422
    assert client.patch("/api/lanes/no/such", json={"closed": True}).json()["error"]["code"] == "lane_not_found"


def test_usage_counts_the_time_of_every_attempt(client: TestClient, machine: Machine) -> None:
    submit(client, project="film")
    machine.take("local/film/interactive/demo-t2v")
    machine.die()
    second = Machine(machine.db, machine.store, "w2")
    second.take("local/film/interactive/demo-t2v")
    second.finish()
    (spent,) = client.get("/api/usage").json()["data"]
    assert (spent["owner"], spent["project"], spent["videos"], spent["attempts"]) == ("local", "film", 1, 2)
    assert spent["gpu_seconds"] >= 0
    assert client.get("/api/usage?days=0").status_code == 422


@pytest.fixture
def logging_client(services: Services, tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(replace(services, log_dir=tmp_path / "logs"))) as client:
        yield client


def test_the_logs_of_a_job_are_its_lines_in_the_order_of_time(logging_client: TestClient, tmp_path: Path) -> None:
    client = logging_client
    job, other = submit(client), submit(client)
    assert client.get(f"/api/jobs/{job}/logs").json()["data"] == []
    (tmp_path / "logs").mkdir()

    def line(time: int, job: str, event: str) -> str:
        return json.dumps({"time": f"2026-01-01T00:00:{time:02}", "job": job, "epoch": 1, "event": event}) + "\n"

    (tmp_path / "logs" / "worker.log.1").write_text(line(1, job, "claimed") + line(2, other, "claimed"))
    (tmp_path / "logs" / "worker.log").write_text(line(4, job, "finished") + f'{{"job": "{job}", "ev')
    (tmp_path / "logs" / "agent.log").write_text(line(3, job, "renewed") + line(3, other, f"after {job}"))
    said = client.get(f"/api/jobs/{job}/logs").json()["data"]
    assert [entry["event"] for entry in said] == ["claimed", "renewed", "finished"]
    last = client.get(f"/api/jobs/{job[4:12]}/logs?limit=1").json()["data"]
    assert [entry["event"] for entry in last] == ["finished"]
    assert client.get("/api/jobs/job_nosuch/logs").status_code == 404


def test_jobs_are_filtered_by_owner_and_project(services: Services) -> None:
    with TestClient(create_app(replace(services, public=True))) as client:
        for name, project in (("mei", "film"), ("mei", "ad"), ("bob", "film")):
            secret = tokens.create(services.db, name, Role.ARTIST, "test").secret
            client.headers["Authorization"] = f"Bearer {secret}"
            submit(client, project=project)

        def found(query: str) -> list[tuple[str, str]]:
            return [(j["owner"], j["project"]) for j in client.get(f"/api/jobs?{query}").json()["data"]]

        assert found("owner=mei") == [("mei", "ad"), ("mei", "film")]
        assert found("project=film") == [("bob", "film"), ("mei", "film")]
        assert found("owner=mei&project=film") == [("mei", "film")]
        page = client.get("/api/jobs?owner=mei&limit=1").json()
        assert [j["project"] for j in page["data"]] == ["ad"]
        after = client.get(f"/api/jobs?owner=mei&limit=1&after={page['next']}").json()
        assert ([j["project"] for j in after["data"]], after["next"]) == (["film"], None)


def test_a_sheet_that_one_has_is_not_drawn_again(client: TestClient, machine: Machine) -> None:
    job = submit(client)
    machine.take()
    machine.finish()
    sheet = client.get(f"/v1/videos/{job}/content?variant=spritesheet")
    again = client.get(sheet.request.url, headers={"If-None-Match": sheet.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
