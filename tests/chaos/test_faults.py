"""The quick form of the faults: one in thirty of what `make proof` injects."""

import sqlite3
from pathlib import Path

import pytest

from tests.chaos.faults import laboratory, parse_plan, run_faults
from tests.chaos.histories import fresh_url
from tests.chaos.injector import Fault, Kind
from tests.chaos.laws import Violation
from tests.chaos.small_farm import SmallFarm

COUNTS = {"sqlite": 45, "postgres": 20}


@pytest.mark.timeout(600)  # it is work, and the machine may be busy
def test_a_farm_heals_from_every_fault(product: str, in_memory: str) -> None:
    with laboratory(in_memory) as lab:
        tally = run_faults(lab, product, COUNTS[product], seed=1)
    assert tally.faults >= COUNTS[product]


def test_a_fault_is_repeated_by_its_place(in_memory: str) -> None:
    with laboratory(in_memory) as lab:
        points, _ = lab.run({}, seed=3)
        plan = parse_plan(f"{points // 2}:hang-after:45,20:kill-before")
        assert plan[20] == Fault(Kind.KILL_BEFORE)
        assert lab.run(dict(plan), seed=3) == lab.run(dict(plan), seed=3)


def test_a_farm_that_gives_up_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that drops its video where the store is away, and a dispatcher that never reaps: jobs are stuck."""
    monkeypatch.setattr(SmallFarm, "_reap", lambda self: None)
    monkeypatch.setattr("tests.chaos.small_farm.MOST_TURNS", 400)
    with fresh_url("sqlite") as url, laboratory(url) as lab, pytest.raises(Violation, match="stuck"):
        run_faults(lab, "sqlite", 100, seed=1)


def test_what_a_kill_leaves_open_is_rolled_back(tmp_path: Path) -> None:
    """A process that died holds no lock: else every run after it would wait."""
    from farm.db.engine import migrate

    url = f"sqlite:///{tmp_path / 'farm.db'}"
    migrate(url)
    with laboratory(url) as lab:
        lab.run({30: Fault(Kind.KILL_AFTER)}, seed=1)
        other = sqlite3.connect(tmp_path / "farm.db", timeout=0)
        other.execute("BEGIN IMMEDIATE")
        other.close()
