"""`farm workers`: the list, and the wishes an operator has, one worker, node or farm at a time."""

import threading

import pytest

from farm.api import workers as api
from farm.db import workers
from farm.domain.states import Wish
from farm.domain.worker import NewWorker
from tests.cli.command import Command
from tests.served.farm import Served
from tests.served.machine import Machine, until


@pytest.fixture
def busy(farm: Command, machine: Machine) -> str:
    job = farm("submit", "a kite").out.strip()
    machine.take()
    machine.step(3, preview=False)
    return job


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One for each time that somebody asked for the workers."""
    seen: list[int] = []
    through = api.worker_list
    monkeypatch.setattr(api, "worker_list", lambda farm: (seen.append(1), through(farm))[1])
    return seen


def keeps_looking(looks: list[int]) -> None:
    """A command that waits asks again and again."""
    before = len(looks)
    until(lambda: len(looks) >= before + 3)


def wishes(served: Served) -> dict[str, tuple[Wish, bool]]:
    return {w.id: (w.wish, w.wish_now) for w in workers.find(served.services.db)}


def test_no_worker_is_an_empty_list_and_a_word_about_it(farm: Command) -> None:
    assert farm("workers", "--json").out == "[]\n"
    done = farm("workers")
    assert (done.code, done.out) == (0, "")
    assert "no worker is running" in done.err


def test_the_list_says_what_each_does(farm: Command, machine: Machine, busy: str) -> None:
    (row,) = [line for line in farm("workers").out.splitlines() if line.startswith("w1")]
    for word in ("studio", "2 CPU cores", "cpu:studio:1", "busy", "run", busy, "denoise 3/", "612 MB"):
        assert word in row
    (said,) = farm("workers", "--json").lines
    assert (said["id"], said["job"], said["stage"]["k"]) == ("w1", busy, 3)


def test_drain_says_what_becomes_of_the_job_in_hand(farm: Command, served: Served, busy: str) -> None:
    done = farm("workers", "drain", "w1", "--reason", "new driver")
    assert (done.code, done.out) == (0, "w1\n")
    assert done.err == f"takes no more jobs; {busy} is finished first\n"
    listed = farm("workers")
    assert "drain" in listed.out
    assert ": new driver" in listed.err
    now = farm("workers", "drain", "w1", "--now")
    assert f"{busy} goes back into the queue" in now.err
    assert wishes(served) == {"w1": (Wish.DRAIN, True)}
    assert farm("workers", "resume", "w1", "--json").lines[0]["wish"] == "run"
    assert wishes(served)["w1"][0] is Wish.RUN


def test_a_wait_ends_with_the_job_in_hand(
    farm: Command, served: Served, machine: Machine, busy: str, looks: list[int]
) -> None:
    process = farm.start("workers", "drain", "w1", "--wait")
    until(lambda: wishes(served)["w1"][0] is Wish.DRAIN)
    keeps_looking(looks)
    assert process.poll() is None
    ended = threading.Thread(target=machine.finish)
    ended.start()
    assert process.wait(30) == 0
    ended.join()


def test_a_restart_is_waited_for_until_a_new_process_is_ready(
    farm: Command, served: Served, machine: Machine, looks: list[int]
) -> None:
    process = farm.start("workers", "restart", "w1", "--wait")
    db = served.services.db
    until(lambda: wishes(served)["w1"][0] is Wish.RESTART)
    keeps_looking(looks)
    workers.gone(db, "w1")
    workers.register(db, NewWorker("w9", "studio", "cpu:studio:1", "2 CPU cores", 2))
    keeps_looking(looks)
    assert process.poll() is None, "it is still starting"
    Machine(db, served.services.store, "w9")  # says that it is idle
    assert process.wait(30) == 0


def test_a_node_and_the_whole_farm(farm: Command, served: Served, machine: Machine) -> None:
    db = served.services.db
    workers.register(db, NewWorker("x1", "attic", "gpu-7", "GPU", 1))
    assert farm("workers", "drain", "--node", "attic").out == "attic\n"
    assert wishes(served) == {"w1": (Wish.RUN, False), "x1": (Wish.DRAIN, False)}
    assert sorted(farm("workers", "drain", "--all").out.split()) == ["w1", "x1"]
    assert {wish for wish, _ in wishes(served).values()} == {Wish.DRAIN}
    refused = farm("workers", "resume", "x1")
    assert (refused.code, "farm workers resume --node attic" in refused.err) == (1, True)
    farm("workers", "resume", "--all")
    assert {wish for wish, _ in wishes(served).values()} == {Wish.RUN}


def test_quarantine_for_a_time_and_release(farm: Command, machine: Machine) -> None:
    made = farm("workers", "quarantine", "cpu:studio", "--for", "1h", "--reason", "the fan")
    assert (made.code, made.out) == (0, "cpu:studio:1\n")
    assert "then a probe decides" in made.err
    listed = farm("workers")
    assert "quarantine" in listed.out
    assert ": the fan" in listed.err
    assert farm("workers", "release", "cpu:studio:1").out == "cpu:studio:1\n"
    assert farm("workers", "--json").lines[0]["quarantine"] is None
    assert "until it is released" in farm("workers", "quarantine", "cpu:studio:1").err


def test_a_card_in_quarantine_is_listed_when_its_worker_is_gone(
    farm: Command, served: Served, machine: Machine
) -> None:
    farm("workers", "quarantine", "cpu:studio:1", "--reason", "it smells")
    workers.gone(served.services.db, "w1")
    said = farm("workers").err
    assert "cpu:studio:1 on studio is in quarantine until it is released: it smells" in said
    farm("workers", "release", "cpu:studio:1")
    assert "quarantine" not in farm("workers").err


@pytest.mark.parametrize(
    ("arguments", "code", "exit", "hint"),
    [
        (["drain"], "invalid_request", 2, "farm workers"),
        (["drain", "w1", "--all"], "invalid_request", 2, "--node"),
        (["drain", "none"], "worker_not_found", 1, "see them with: farm workers"),
        (["restart", "--node", "none"], "node_not_found", 1, "see them with: farm workers"),
        (["quarantine", "none"], "gpu_not_found", 1, "see them with: farm workers"),
        (["quarantine", "cpu:studio:1", "--for", "soon"], "invalid_request", 2, "90s, 30m, 1h or 2d"),
        (["release", "cpu:studio:1"], "not_quarantined", 1, "farm workers"),
    ],
)
def test_what_cannot_be_done_says_why_and_what_helps(
    farm: Command, machine: Machine, arguments: list[str], code: str, exit: int, hint: str
) -> None:
    done = farm("workers", *arguments)
    assert (done.code, done.out) == (exit, "")
    assert f"error {code}: " in done.err
    assert hint in done.err
