"""What the API says and does when database and store are servers: redirects, and the truth about outages."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from farm.api.app import create_app
from farm.api.services import Services
from farm.domain.errors import StorageUnavailable
from farm.storage.folder import FolderStore
from farm.storage.s3 import S3Store
from tests.private_servers import Server
from tests.served.machine import Machine


class Away(FolderStore):
    """One that may be unplugged. Counts how often it is asked whether it is there."""

    away = False
    asked = 0

    def check(self) -> None:
        self.asked += 1
        if self.away:
            raise StorageUnavailable("the store at http://s3 does not answer", "start it")


@pytest.fixture
def in_bucket(services: Services, seaweedfs: Server) -> Iterator[Callable[[bool], TestClient]]:
    """in_bucket(redirect) is a client of a farm whose videos are in a bucket."""
    server = seaweedfs.server
    store = S3Store(f"s3://farm/api?endpoint={server.endpoint}", (server.access_key, server.secret_key))
    clients: list[TestClient] = []

    def client(redirect: bool) -> TestClient:
        made = TestClient(
            create_app(replace(services, store=store, store_redirect=redirect)), follow_redirects=False
        )
        made.__enter__()
        clients.append(made)
        return made

    yield client
    for made in clients:
        made.__exit__(None, None, None)


def rendered(client: TestClient) -> tuple[str, bytes]:
    job = client.post("/api/jobs", json={"prompt": "一只风筝 a kite"}).json()["id"]
    farm: Services = client.app.state.services  # type: ignore[attr-defined]
    machine = Machine(farm.db, farm.store)
    machine.take()
    artifact = machine.finish()
    return job, b"".join(farm.store.open(artifact.key))


def test_a_video_streams_through_the_api_unless_asked_otherwise(in_bucket: Callable[[bool], TestClient]):
    client = in_bucket(False)
    job, video = rendered(client)
    whole = client.get(f"/api/jobs/{job}/content")
    assert (whole.status_code, whole.content) == (200, video)
    part = client.get(f"/api/jobs/{job}/content", headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, video[5:10])
    assert client.get(f"/api/jobs/{job}/thumbnail").content[:2] == b"\xff\xd8"


def test_with_redirects_the_store_serves_it_under_its_name(in_bucket: Callable[[bool], TestClient]):
    client = in_bucket(True)
    job, video = rendered(client)
    answer = client.get(f"/api/jobs/{job}/content", params={"download": "true"})
    assert (answer.status_code, answer.headers["cache-control"]) == (307, "no-store")
    saved = httpx.get(answer.headers["location"])
    assert saved.content == video
    assert saved.headers["content-disposition"].startswith("attachment; ")
    assert "%E9%A3%8E%E7%AD%9D" in saved.headers["content-disposition"], "the prompt's words, in any language"
    etag = client.get(f"/api/jobs/{job}").json()["artifact"]["sha256"]
    kept = client.get(f"/api/jobs/{job}/content", headers={"If-None-Match": f'"{etag}"'})
    assert kept.status_code == 304, "what a browser has need not be fetched at all"


def test_a_folder_has_no_address_to_redirect_to(services: Services):
    with TestClient(create_app(replace(services, store_redirect=True)), follow_redirects=False) as client:
        job, video = rendered(client)
        assert client.get(f"/api/jobs/{job}/content").content == video


def test_an_outage_of_the_store_is_said_by_readiness_health_and_job(services: Services, tmp_path: Path):
    store = Away(tmp_path / "store")
    farm = replace(services, store=store)
    with TestClient(create_app(farm)) as client:
        job = client.post("/api/jobs", json={"prompt": "a kite"}).json()["id"]
        assert client.get("/readyz").status_code == 200
        for _ in range(5):
            assert client.get(f"/api/jobs/{job}").json()["waiting_because"]["code"] == "no_worker"
        assert store.asked == 1, "it is not asked for every reader"
        store.away = True
        machine = Machine(farm.db, store)
        machine.take()
        behind = client.post("/api/jobs", json={"prompt": "another"}).json()["id"]
    with TestClient(create_app(replace(farm))) as client:  # nothing is believed for long
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["store"]) == (
            503,
            "the store at http://s3 does not answer",
        )
        assert client.get("/api/health").json()["status"] == "not ready"
        because = client.get(f"/api/jobs/{behind}").json()["waiting_because"]
        assert (because["code"], because["help"]) == ("store_away", "Start it")


def test_health_answers_while_the_database_is_away(services: Services, monkeypatch: pytest.MonkeyPatch):
    from farm.db import jobs
    from farm.domain.errors import DatabaseUnavailable

    def away(*_: object) -> None:
        raise DatabaseUnavailable("cannot reach the database farm on db: Connection refused", "start it")

    with TestClient(create_app(services)) as client:
        monkeypatch.setattr(jobs, "counts", away)
        health = client.get("/api/health")
        assert (health.status_code, health.json()["jobs"], health.json()["workers"]) == (200, {}, [])
        assert "Connection refused" in health.json()["checks"]["database"]
        assert client.get("/readyz").status_code == 503
