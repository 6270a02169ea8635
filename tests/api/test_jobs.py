"""`/api/jobs`: what people can ask of a job, and what each answer says."""

from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from farm.api.app import create_app
from farm.api.services import Services
from farm.scheduling.stalls import StallLimits
from tests.served.machine import TIMINGS, Machine, until


def submit(client: TestClient, prompt: str = "a red kite", **fields: object) -> dict:
    answer = client.post("/api/jobs", json={"prompt": prompt, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_submitted_job_says_everything_that_was_decided_for_it(client: TestClient, services: Services) -> None:
    job = submit(client, "一只红色的风筝", seed=7)
    assert (job["prompt"], job["seed"], job["state"], job["size"]) == ("一只红色的风筝", 7, "queued", "192x192")
    assert (job["frames"], job["fps"], job["steps"], job["guidance"]) == (33, 16, 4, 1.0)
    assert job["model_digest"] == "digest"
    assert services.poke.count == 1  # type: ignore[attr-defined]


def test_words_that_the_demo_model_has_never_seen_are_named(client: TestClient) -> None:
    job = submit(client, "a red dragon circle")
    assert "does not know: dragon." in job["hint"]
    assert client.get(f"/api/jobs/{job['id']}").json()["hint"] == job["hint"]
    assert submit(client, "一个大的红色圆形向右移动")["hint"] is None


def test_a_form_makes_the_same_job_as_json(client: TestClient) -> None:
    answer = client.post("/api/jobs", data={"prompt": "a kite", "seed": "7", "hold": "true", "steps": ""})
    assert answer.status_code == 201
    job = answer.json()
    assert (job["prompt"], job["seed"], job["state"], job["steps"]) == ("a kite", 7, "held", 4)


def test_the_list_is_filtered_and_paged_without_losing_or_repeating_a_job(client: TestClient) -> None:
    made = [submit(client, f"kite {i}")["id"] for i in range(5)]
    submit(client, "a boat", hold=True)
    seen, after = [], None
    while True:
        page = client.get("/api/jobs", params={"search": "KITE", "limit": 2, **({"after": after} if after else {})})
        seen += [job["id"] for job in page.json()["data"]]
        after = page.json()["next"]
        if after is None:
            break
    assert seen == made[::-1]
    held = client.get("/api/jobs?state=held,failed").json()
    assert [job["prompt"] for job in held["data"]] == ["a boat"]
    assert (held["counts"]["queued"], held["counts"]["held"]) == (5, 1)


def test_a_job_tells_its_attempts_its_seconds_and_why_it_waits(client: TestClient, machine: Machine) -> None:
    job = submit(client)
    waiting = client.get(f"/api/jobs/{job['id']}").json()
    assert waiting["waiting_because"]["sentence"]
    assert waiting["position"] == 0
    machine.take()
    machine.step(7)
    running = client.get(f"/api/jobs/{job['id']}").json()
    assert running["progress"]["stage"] == "denoise"
    assert (running["progress"]["k"], running["progress"]["n"]) == (7, 16)
    assert 8 < running["percent"] < 85
    machine.die()
    second = Machine(machine.db, machine.store, "w2")
    second.take()
    second.finish()
    done = client.get(f"/api/jobs/{job['id']}").json()
    assert [a["outcome"] for a in done["attempts"]] == ["lost", "succeeded"]
    assert done["timings"] == TIMINGS
    assert done["percent"] == 100
    assert done["artifact"]["frames"] == 33


def test_a_prefix_of_an_id_finds_the_job(client: TestClient) -> None:
    job = submit(client)
    assert client.get(f"/api/jobs/{job['id'][:12]}").json()["id"] == job["id"]


def test_previews_can_be_seen_while_the_job_is_denoised(client: TestClient, machine: Machine) -> None:
    job = submit(client)
    assert client.get(f"/api/jobs/{job['id']}/preview").json()["error"]["code"] == "not_ready"
    machine.take()
    machine.step(3)
    url = client.get(f"/api/jobs/{job['id']}").json()["progress"]["preview_url"]
    picture = client.get(url)
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content == client.get(f"/api/jobs/{job['id']}/preview").content


def test_hold_release_cancel_and_retry_move_the_job_and_wake_the_dispatcher(
    client: TestClient, services: Services
) -> None:
    job = submit(client)
    for verb, state in (
        ("hold", "held"),
        ("release", "queued"),
        ("cancel", "cancelled"),
        ("retry", "queued"),
    ):
        answer = client.post(f"/api/jobs/{job['id']}/{verb}")
        assert (answer.status_code, answer.json()["state"]) == (200, state)
    assert services.poke.count == 5  # type: ignore[attr-defined]


def test_a_running_job_is_asked_to_stop_and_stops_at_its_next_step(client: TestClient, machine: Machine) -> None:
    job = submit(client)
    machine.take()
    asked = client.post(f"/api/jobs/{job['id']}/cancel").json()
    assert (asked["state"], asked["cancel_requested"]) == ("running", True)
    machine.stop()
    assert client.get(f"/api/jobs/{job['id']}").json()["state"] == "cancelled"


def test_patch_changes_priority_and_hold(client: TestClient) -> None:
    job = submit(client)
    changed = client.patch(f"/api/jobs/{job['id']}", json={"priority": 5, "hold": True}).json()
    assert (changed["priority"], changed["state"]) == (5, "held")
    assert client.patch(f"/api/jobs/{job['id']}", json={"hold": False}).json()["state"] == "queued"


def test_rerun_repeats_the_settings_with_the_same_or_a_new_seed(client: TestClient) -> None:
    job = submit(client, steps=3, seed=7)
    same = client.post(f"/api/jobs/{job['id']}/rerun").json()
    other = client.post(f"/api/jobs/{job['id']}/rerun", json={"seed": None}).json()
    assert same["id"] != job["id"]
    assert (same["seed"], same["steps"], same["prompt"]) == (7, 3, "a red kite")
    assert other["seed"] != 7


def test_an_idempotency_key_makes_one_job_however_often_it_is_sent(client: TestClient) -> None:
    key = {"Idempotency-Key": "shot-12"}
    first = client.post("/api/jobs", json={"prompt": "a kite"}, headers=key)
    again = client.post("/api/jobs", json={"prompt": "a kite"}, headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    other = client.post("/api/jobs", json={"prompt": "a boat"}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert len(client.get("/api/jobs").json()["data"]) == 1


@pytest.mark.parametrize("verb", ["release", "retry"])
def test_a_transition_that_does_not_exist_is_refused_with_what_is_possible(client: TestClient, verb: str) -> None:
    job = submit(client)
    answer = client.post(f"/api/jobs/{job['id']}/{verb}")
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "state_conflict"
    assert "held or cancelled" in answer.json()["error"]["next"]


def test_workers_models_and_health_say_what_is_there(client: TestClient, machine: Machine) -> None:
    job = submit(client)
    machine.take()
    (worker,) = client.get("/api/workers").json()["data"]
    assert (worker["id"], worker["pid"], worker["state"], worker["job"]) == ("w1", 4711, "busy", job["id"])
    models = {m["id"]: m["installed"] for m in client.get("/api/models").json()["data"]}
    assert models == {
        "demo-t2v": True, "demo-i2v": False,
            "wan2.1-t2v-1.3b": False, "wan2.1-t2v-14b": False, "wan2.2-i2v-a14b": False,
            "wan2.1-t2v-1.3b-base": False, "wan2.1-t2v-14b-base": False, "wan2.2-i2v-a14b-base": False,
    }  # fmt: skip
    health = client.get("/api/health").json()
    assert (health["status"], health["jobs"]["running"]) == ("ok", 1)
    assert client.get("/readyz").json()["checks"] == {"database": "ok", "store": "ok", "dispatcher": "ok"}


def test_jobs_are_filtered_by_project_owner_and_tag(client: TestClient) -> None:
    one = submit(client, project="trailer", tags={"shot": "12a", "sum": "1+1=2"})["id"]
    submit(client, project="teaser", tags={"shot": "12"})

    def found(**query: str) -> list[str]:
        return [job["id"] for job in client.get("/api/jobs", params=query).json()["data"]]

    for query in ({"project": "trailer"}, {"tag": "shot=12a"}, {"tag": "sum=1+1=2"}):
        assert found(**query) == [one]
    assert len(found(owner="local", tag="")) == 2
    assert found(owner="somebody") == []
    assert client.get("/api/jobs?tag=shot").json()["error"]["field"] == "tag"


def test_the_front_of_the_queue_is_one_request_away(client: TestClient, services: Services) -> None:
    submit(client)
    late = submit(client)["id"]
    assert client.post(f"/api/jobs/{late}/front").json()["priority"] == 1
    assert client.get(f"/api/jobs/{late}").json()["position"] == 0
    assert services.poke.count == 3  # type: ignore[attr-defined]
    client.post(f"/api/jobs/{late}/cancel")
    assert client.post(f"/api/jobs/{late}/front").json()["error"]["code"] == "state_conflict"


def test_a_model_says_its_limits_and_the_words_that_it_knows(client: TestClient) -> None:
    models = {m["id"]: m for m in client.get("/api/models").json()["data"]}
    demo, large = models["demo-t2v"], models["wan2.1-t2v-1.3b"]
    assert "circle" in demo["vocabulary"]["words"]
    assert "圆" in demo["vocabulary"]["characters"]
    assert large["vocabulary"] is None
    assert (large["sizes"]["16:9"], large["sizes"]["9:16"], large["grid"]) == ("832x480", "480x832", 16)


def test_health_names_the_server_and_its_disk(client: TestClient) -> None:
    server = client.get("/api/health").json()["server"]
    assert 0 < server["disk"]["free"] <= server["disk"]["total"]
    assert server["version"]


def test_without_a_dispatcher_the_farm_is_alive_but_not_ready(services: Services) -> None:
    from dataclasses import replace

    from farm.api.app import create_app

    with TestClient(create_app(replace(services, dispatcher_alive=lambda: False))) as client:
        assert client.get("/healthz").status_code == 200
        answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "farm up" in answer.json()["checks"]["dispatcher"]


def test_a_job_waits_for_another_and_says_so(client: TestClient) -> None:
    first = client.post("/api/jobs", json={"prompt": "a kite"}).json()["id"]
    wish = {"prompt": "a boat", "depends_on": [{"job": first, "after": "any"}], "requires": {"memory": "40GB"}}
    second = client.post("/api/jobs", json=wish).json()
    assert (second["state"], second["requires"]["memory"]) == ("scheduled", 40 * 10**9)
    shown = client.get(f"/api/jobs/{second['id']}").json()
    assert client.get(f"/api/jobs/{first}").json()["dependents"] == [{"job": second["id"], "state": "scheduled"}]
    assert shown["depends_on"] == [{"job": first, "after": "any", "state": "queued", "met": False}]
    client.post(f"/api/jobs/{first}/cancel")
    assert client.get(f"/api/jobs/{second['id']}").json()["depends_on"][0]["met"] is True
    again = client.post(f"/api/jobs/{second['id']}/rerun", json={}).json()
    assert (again["state"], again["requires"]) == ("queued", second["requires"]), "a rerun waits for nobody"


def test_a_job_that_is_not_there_cannot_be_waited_for(client: TestClient) -> None:
    answer = client.post("/api/jobs", json={"prompt": "a boat", "depends_on": "job_aaaaaaaaaaaa"})
    assert answer.status_code == 422
    assert (answer.json()["error"]["field"], client.get("/api/jobs").json()["data"]) == ("depends_on", [])


def test_a_hung_stage_is_said_by_the_limits_of_the_machines(services: Services, machine: Machine) -> None:
    strict = StallLimits(floor=0.0, loading=0.0, unknown=0.0)
    with TestClient(create_app(replace(services, stall_limits=strict))) as client:
        job = client.post("/api/jobs", json={"prompt": "a kite"}).json()["id"]
        machine.take()
        machine.step(3, preview=False)
        because = until(
            lambda: (w := client.get(f"/api/jobs/{job}").json()["waiting_because"])["code"] == "hung" and w
        )
        assert because["sentence"].startswith("w1 hangs: no progress for")
