"""`farm prune` as a person uses it: a look first, and nothing goes without a yes."""

import os
import pty
from pathlib import Path

import pytest

from farm.cli.moments import duration
from farm.domain.errors import InvalidRequest
from tests.cli.command import Command
from tests.served.farm import Served
from tests.served.machine import Machine


@pytest.fixture
def jobs(farm: Command, machine: Machine) -> dict[str, str]:
    made: dict[str, str] = {}
    for end in ("succeeded", "failed", "cancelled", "queued"):
        made[end] = farm("submit", f"a kite that is {end}", "--tag", f"shot={end}").out.strip()
        if end == "cancelled":
            farm("cancel", made[end])
        elif end != "queued":
            machine.take()
            machine.finish() if end == "succeeded" else machine.fail()
    return made


def listed(farm: Command) -> set[str]:
    return {job["id"] for job in farm("list", "--json").lines}


def test_it_looks_and_then_removes_what_it_saw(farm: Command, jobs: dict[str, str], served: Served) -> None:
    look = farm("prune", "--older-than", "0m")
    assert (look.code, "would remove 2 jobs" in look.out) == (0, True), look
    assert "nothing was removed; --yes removes it" in look.err
    dry = farm("prune", "--older-than", "0m", "--dry-run", "--json")
    assert (dry.json["jobs"], dry.json["dry_run"], dry.err) == (2, True, "")
    assert listed(farm) == set(jobs.values())
    done = farm("prune", "--older-than", "0m", "--yes")
    assert (done.code, done.out.startswith("removed 2 jobs, ")) == (0, True), done
    assert listed(farm) == {jobs["succeeded"], jobs["queued"]}
    again = farm("prune", "--older-than", "0m", "--yes")
    assert (again.code, again.out, again.err) == (0, "", "nothing fits: nothing to remove\n")
    assert farm("prune", "--older-than", "1d", "--state", "succeeded", "--yes", "--json").json["jobs"] == 0
    kept = farm("prune", "--state", "succeeded", "--tag", "shot=succeeded", "--keep-rows", "--yes", "--json").json
    assert (kept["jobs"], kept["dry_run"]) == (1, False)
    assert kept["bytes"] > 1000
    assert "video     removed on 20" in farm("show", jobs["succeeded"]).out
    gone = farm("download", jobs["succeeded"])
    assert (gone.code, "video_removed: the video of job" in gone.err) == (1, True)
    assert list(served.services.store.list("videos/")) == []


def test_more_than_one_request_removes_are_summed_up(farm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.domain.prune.MOST", 2)
    for _ in range(5):
        farm("cancel", farm("submit", "a kite", "--project", "north").out.strip())
    done = farm("prune", "--project", "north", "--yes", "--json").json
    assert (done["jobs"], done["more"], done["oldest"] < done["newest"]) == (5, False, True)


def test_what_stays_is_told(farm: Command, jobs: dict[str, str]) -> None:
    farm("submit", "a boat", "--after", jobs["succeeded"], "--hold")
    look = farm("prune", "--state", "succeeded")
    assert "stay, because unfinished jobs wait for them: 1" in look.err
    assert look.out == ""


@pytest.mark.parametrize(("answer", "left"), [(b"y\n", 2), (b"n\n", 4)])
def test_a_terminal_is_asked(farm: Command, jobs: dict[str, str], answer: bytes, left: int) -> None:
    ours, theirs = pty.openpty()
    try:
        process = farm.start("prune", "--older-than", "0m", stdin=theirs)
        os.write(ours, answer)
        _, err = process.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"remove 2 jobs" in err
    assert process.returncode == 0
    assert len(listed(farm)) == left


def test_mistakes_are_answered_in_words(farm: Command, tmp_path: Path) -> None:
    bare = farm("prune", "--yes")
    assert (bare.code, "without any filter" in bare.err) == (2, True)
    assert farm("prune", "--older-than", "a while").code == 2
    assert farm("prune", "--tag", "shot").code == 2
    assert farm("prune", "--state", "running").code == 2
    assert farm("prune", "--project", "p", "--keep-rows").code == 2
    assert Command("http://127.0.0.1:1", tmp_path)("prune", "--older-than", "30d").code == 5
    chinese = Command(farm.url, farm.cwd, {"FARM_LANG": "zh"})
    assert "不加任何条件" in chinese("prune").err
    assert (duration("30d", "x"), duration("1.5h", "x")) == (2592000, 5400)
    with pytest.raises(InvalidRequest):
        duration("-1d", "x")
