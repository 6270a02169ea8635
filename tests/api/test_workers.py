"""`/api/workers`, `/api/nodes`, `/api/gpus`: wishes are kept, told and undone; a wrong one is answered clearly."""

import pytest

from farm.api.services import Services
from farm.db import workers
from farm.domain.worker import NewWorker
from tests.served.machine import Machine


@pytest.fixture
def second(services: Services) -> Machine:
    return Machine(services.db, services.store, "w2")


@pytest.fixture
def ask(client):
    def asked(path, body=None, status=200):
        answer = client.get(path) if body is None else client.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    return asked


def of(ask, worker):
    return ask(f"/api/workers/{worker}")


def test_a_worker_is_shown_with_its_job_and_how_far_it_is(ask, machine, services):
    ask("/api/jobs", {"prompt": "a kite"}, 201)
    job = machine.take().job
    machine.step(3)
    (said,) = ask("/api/workers")["data"]
    assert said == {**of(ask, "w1"), "heartbeat_age": said["heartbeat_age"]}
    assert (said["state"], said["job"], said["wish"]) == ("busy", job, "run")
    assert (said["stage"]["stage"], said["stage"]["k"]) == ("denoise", 3)
    assert said["heartbeat_age"] < 60


def test_a_wish_is_kept_with_who_and_why_and_wakes_the_farm(ask, machine, services):
    before = services.poke.count
    said = ask("/api/workers/w1/wish", {"wish": "drain", "now": True, "reason": "new driver", "by": "ann"})
    assert (said["wish"], said["wish_now"], said["wish_by"], said["wish_reason"]) == (
        "drain", True, "ann", "new driver",
    )  # fmt: skip
    assert of(ask, "w1")["wish"] == "drain"
    assert services.poke.count == before + 1
    assert ask("/api/workers/w1/wish", {"wish": "run"})["wish"] == "run"
    assert ask("/api/workers/w1/wish", {"wish": "restart"})["wish"] == "restart"


def test_a_wish_for_a_node_holds_for_all_its_workers_and_those_to_come(ask, machine, second, services):
    ask("/api/workers/w1/wish", {"wish": "drain"})
    told = ask("/api/nodes/studio/wish", {"wish": "drain", "reason": "the roof leaks", "by": "bob"})
    assert (told["node"], told["wish"], told["wish_by"]) == ("studio", "drain", "bob")
    workers.register(services.db, NewWorker("w3", "studio", "cpu:studio:3", "2 CPU cores", 1))
    assert {w["wish"] for w in ask("/api/workers")["data"]} == {"drain"}
    refused = ask("/api/workers/w2/wish", {"wish": "run"}, 409)["error"]
    assert (refused["code"], refused["next"]) == ("wish_of_node", "farm workers resume --node studio")
    ask("/api/nodes/studio/wish", {"wish": "run"})
    assert {w["wish"] for w in ask("/api/workers")["data"]} == {"run"}, "also the one that was drained alone"


def test_a_gpu_is_set_aside_for_a_time_and_released(ask, machine, services):
    made = ask("/api/gpus/cpu:studio:1/quarantine", {"seconds": 3600, "reason": "fan", "by": "ann"})
    assert (made["gpu"], made["reason"], made["by"]) == ("cpu:studio:1", "fan", "ann")
    assert made["until"] > made["since"]
    assert of(ask, "w1")["quarantine"] == made
    assert ask("/api/gpus")["data"] == [made]
    assert ask("/api/gpus/cpu:studio:1/release", {"by": "ann"})["quarantined"] is False
    assert of(ask, "w1")["quarantine"] is None
    again = ask("/api/gpus/cpu:studio:1/release", {}, 409)["error"]
    assert again["code"] == "not_quarantined"


@pytest.mark.parametrize("seconds", [None, 3600])
def test_to_resume_a_worker_is_to_say_that_its_gpu_is_well(ask, machine, seconds):
    ask("/api/gpus/cpu:studio:1/quarantine", {"seconds": seconds})
    ask("/api/workers/w1/wish", {"wish": "run"})
    assert of(ask, "w1")["quarantine"] is None


def test_released_by_hand_a_worker_that_was_set_aside_runs_again(ask, machine):
    assert ask("/api/workers/w1/wish", {"wish": "quarantine", "reason": "odd"})["quarantine"]["until"] is None
    ask("/api/gpus/cpu:studio:1/release", {})
    said = of(ask, "w1")
    assert (said["wish"], said["quarantine"]) == ("run", None)


def test_ids_are_given_by_their_beginning(ask, services, machine, second):
    workers.register(services.db, NewWorker("abcdef", "attic", "gpu-7", "GPU", 1))
    assert of(ask, "abc")["id"] == "abcdef"
    assert ask("/api/nodes/att/wish", {"wish": "drain"})["node"] == "attic"
    assert ask("/api/gpus/gpu/quarantine", {})["gpu"] == "gpu-7"
    unclear = ask("/api/workers/w/wish", {"wish": "run"}, 404)["error"]
    assert unclear["message"].startswith("more than one worker begins with 'w'")
    assert "w1" in unclear["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "words"),
    [
        ("/api/workers/none/wish", {"wish": "run"}, 404, "worker_not_found", "there is no worker 'none'"),
        ("/api/nodes/none/wish", {"wish": "run"}, 404, "node_not_found", "there is no node 'none'"),
        ("/api/gpus/none/quarantine", {}, 404, "gpu_not_found", "there is no GPU 'none'"),
        ("/api/workers/w1/wish", {"wish": "dance"}, 422, "invalid_request", "no wish is called 'dance'"),
        ("/api/workers/w1/wish", {}, 422, "invalid_request", "no wish is called"),
        ("/api/workers/w1/wish", {"wish": "run", "now": 1}, 422, "invalid_request", "now must be true or false"),
        ("/api/workers/w1/wish", {"wish": "run", "why": "x"}, 422, "invalid_request", "no field is called 'why'"),
        ("/api/workers/w1/wish", {"wish": "run", "reason": 7}, 422, "invalid_request", "reason must be a text"),
        ("/api/nodes/studio/wish", {"wish": "quarantine"}, 422, "invalid_request", "a node cannot be quarantined"),
        ("/api/gpus/cpu:studio:1/quarantine", {"seconds": -1}, 422, "invalid_request", "seconds must be"),
        ("/api/gpus/cpu:studio:1/quarantine", {"seconds": "1h"}, 422, "invalid_request", "seconds must be"),
    ],
)
def test_a_wrong_wish_is_answered_with_what_to_do(ask, machine, path, body, status, code, words):
    error = ask(path, body, status)["error"]
    assert error["code"] == code
    assert words in error["message"]
    assert error["next"]


def test_a_worker_that_is_gone_can_be_looked_at_and_is_past_wishing(ask, machine, services):
    workers.gone(services.db, "w1")
    assert of(ask, "w1")["state"] == "gone"
    assert ask("/api/workers/w1/wish", {"wish": "drain"}, 404)["error"]["message"] == "worker w1 is gone"
    assert ask("/api/workers")["data"] == []


def test_the_stream_tells_of_wishes_for_workers_nodes_and_gpus(ask, machine, services):
    from farm.db import events

    before = events.latest(services.db)
    ask("/api/workers/w1/wish", {"wish": "drain"})
    ask("/api/nodes/studio/wish", {"wish": "drain"})
    ask("/api/gpus/cpu:studio:1/quarantine", {})
    told = {event.kind for event in events.read(services.db, before)[0]}
    assert told == {"worker", "node", "gpu"}
