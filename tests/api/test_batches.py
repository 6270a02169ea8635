"""`/api/batches`: all rows or none, and the same rows twice add nothing."""

from starlette.testclient import TestClient


def test_a_batch_submitted_twice_adds_only_what_is_missing(client: TestClient) -> None:
    first = client.post("/api/batches", json={"name": "night", "rows": ["a kite", "a boat", "a kite"]})
    assert (first.status_code, first.json()["created"], first.json()["existing"]) == (201, 3, 0)
    again = client.post("/api/batches", json={"name": "night", "rows": ["a kite", "a boat", "a kite"]})
    assert (again.status_code, again.json()["created"], again.json()["existing"]) == (200, 0, 3)
    assert sorted(again.json()["jobs"]) == sorted(first.json()["jobs"])
    more = client.post("/api/batches", json={"name": "night", "rows": ["a boat", "a train"]})
    assert (more.json()["created"], more.json()["existing"]) == (1, 1)
    assert client.get("/api/batches/night").json()["rows"] == 4


def test_one_bad_row_keeps_all_out_and_every_bad_row_is_named(client: TestClient) -> None:
    rows = ["a kite", {"prompt": "a", "steps": 99}, "", {"prompt": "b", "size": "100x100"}]
    answer = client.post("/api/batches", json={"name": "night", "rows": rows})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "invalid_batch")
    assert [(row["row"], row["field"]) for row in error["rows"]] == [(2, "steps"), (3, "prompt"), (4, "size")]
    assert client.get("/api/jobs").json()["data"] == []


def test_a_batch_tells_its_state_from_its_jobs(client: TestClient) -> None:
    made = client.post("/api/batches", json={"name": "夜/1", "rows": ["a", "b"]}).json()
    assert client.get("/api/batches/夜/1").json()["state"] == "running"
    for job in made["jobs"]:
        client.post(f"/api/jobs/{job}/cancel")
    done = client.get("/api/batches/夜/1").json()
    assert (done["state"], done["counts"]["cancelled"]) == ("finished", 2)
    assert client.get("/api/batches/nope").status_code == 404


def test_rows_that_wait_for_rows_are_scheduled_and_the_same_file_adds_nothing(client: TestClient) -> None:
    rows = ["a kite", {"prompt": "a boat", "depends_on": ["row:1"]}]
    first, second = client.post("/api/batches", json={"name": "chain", "rows": rows}).json()["jobs"]
    boat = client.get(f"/api/jobs/{second}").json()
    assert boat["state"] == "scheduled"
    assert boat["depends_on"] == [{"job": first, "after": "success", "state": "queued", "met": False}]
    assert client.post("/api/batches", json={"name": "chain", "rows": rows}).json()["created"] == 0
