"""What a server offers: its own library, and what living workers hold; new jobs are pinned to the newest."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from farm.api import offer
from farm.api.app import create_app
from farm.api.offer import Offer
from farm.api.services import Services
from farm.db import jobs, leases, models, workers
from farm.domain.model import ModelOnDisk
from farm.domain.worker import Beat, NewWorker
from farm.models.on_disk import on_disk
from model.library import Library, preset_json
from tests.library import I2V, write_library


@pytest.fixture
def live(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A server that asks its database and library anew for every request."""
    monkeypatch.setattr(offer, "FRESH", -1.0)
    offered = Offer(services.db, Library(tmp_path / "models"), "demo-t2v")
    with TestClient(create_app(dataclasses.replace(services, models_now=offered.now))) as client:
        yield client


def hire(services: Services, name: str, *held: ModelOnDisk) -> None:
    workers.register(services.db, NewWorker(name, "node", f"gpu-{name}", "GPU", 1))
    models.advertise(services.db, name, held)
    workers.beat(services.db, [Beat(name, None, 0, None, (), "idle", None, 0)])


def weights(digest: str, name: str = "my-model") -> ModelOnDisk:
    preset = dataclasses.replace(I2V, name=name, task="t2v")
    return ModelOnDisk(name, digest, preset_json(preset), 77)


def listed(live: TestClient) -> dict[str, dict[str, object]]:
    return {model["id"]: model for model in live.get("/api/models").json()["data"]}


def submit(live: TestClient, model: str = "my-model") -> dict[str, str]:
    answer = live.post("/api/jobs", json={"prompt": "a red circle", "model": model})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_model_that_only_a_worker_holds_can_be_asked_for(live: TestClient, services: Services) -> None:
    assert "my-model" not in listed(live)
    hire(services, "w1", weights("old"))
    shown = listed(live)["my-model"]
    assert (shown["installed"], shown["digest"], shown["workers"], shown["bytes"]) == (True, "old", 1, 77)
    assert submit(live)["model_digest"] == "old"
    assert "my-model" in live.get("/api/health").json()["models"]


def test_it_is_gone_with_its_last_worker(live: TestClient, services: Services) -> None:
    hire(services, "w1", weights("old"))
    workers.gone(services.db, "w1")
    answer = live.post("/api/jobs", json={"prompt": "a", "model": "my-model"})
    assert answer.json()["error"]["code"] == "unknown_model"


def test_of_two_sets_of_weights_the_newest_wins_for_new_jobs(live: TestClient, services: Services) -> None:
    hire(services, "w1", weights("old"))
    first = submit(live)
    hire(services, "w2", weights("new"))
    second = submit(live)
    assert (first["model_digest"], second["model_digest"]) == ("old", "new")
    given = leases.claim(services.db, "w2", jobs.get(services.db, first["id"]).lane)
    assert given is not None
    assert given.job == second["id"], "the older job waits for who has its weights"
    workers.gone(services.db, "w2")
    assert submit(live)["model_digest"] == "old", "only who lives counts"


def test_a_job_whose_weights_no_worker_has_any_more_says_so(live: TestClient, services: Services) -> None:
    hire(services, "w1", weights("old"))
    job = submit(live)
    hire(services, "w2", weights("new"))
    workers.gone(services.db, "w1")
    because = live.get(f"/api/jobs/{job['id']}").json()["waiting_because"]
    assert because["code"] == "weights_missing"
    assert "they have others" in because["sentence"]
    assert f"farm rerun {job['id']}" in because["help"]


def test_the_servers_own_library_is_offered_and_noticed_while_it_runs(
    live: TestClient, services: Services, tmp_path: Path
) -> None:
    assert I2V.name not in listed(live)
    library = write_library(tmp_path / "models")
    assert listed(live)[I2V.name]["digest"] == library.digest(I2V)
    assert listed(live)[I2V.name]["workers"] == 0
    hire(services, "w1", *on_disk(library))
    assert listed(live)[I2V.name]["workers"] == 1


def test_a_preset_of_another_version_is_left_out_and_breaks_nothing(live: TestClient, services: Services) -> None:
    strange = ModelOnDisk("strange", "d", {"name": "strange", "unheard_of": 1}, 1)
    hire(services, "w1", strange, weights("old"))
    assert "strange" not in listed(live)
    assert "my-model" in listed(live)


def test_a_database_that_is_away_leaves_the_own_library(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from farm.domain.errors import DatabaseUnavailable

    def away(*_: object) -> list[object]:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(models, "find", away)
    assert list(Offer(services.db, Library(tmp_path), "demo-t2v").now().installed) == ["demo-t2v", "demo-i2v"]
