"""`farm usage`, `farm logs`, and the filters of `farm list`."""

import json
from pathlib import Path

from tests.cli.command import Command
from tests.served.farm import Served
from tests.served.machine import Machine


def test_usage_is_a_table_or_lines_of_json(farm: Command, machine: Machine) -> None:
    assert farm("usage", "--json").out == "[]\n"
    assert "nothing was rendered" in farm("usage").err
    farm("submit", "a kite")
    machine.take()
    machine.finish()
    shown = farm("usage")
    assert shown.out.splitlines()[1].split()[:4] == ["local", "default", "1", "1"]
    assert farm("usage", "--days", "1", "--json").json["videos"] == 1
    assert farm("usage", "--days", "0").code == 2


def test_logs_are_the_lines_about_a_job(farm: Command, served: Served, tmp_path: Path) -> None:
    object.__setattr__(served.services, "log_dir", tmp_path)
    job = farm("submit", "a kite").out.strip()
    assert "nothing was written" in farm("logs", job).err
    line = {
        "time": "2026-01-01T00:00:00Z",
        "process": "worker",
        "job": job,
        "epoch": 1,
        "event": "claimed",
        "gpu": "g",
    }
    (tmp_path / "worker.log").write_text(json.dumps(line) + "\n")
    assert farm("logs", job).out == "2026-01-01T00:00:00Z  worker #1  claimed  gpu=g\n"
    assert farm("logs", job, "--json").json == line
    assert farm("logs", "job_nosuch").code == 1


def test_the_list_can_be_of_one_owner_or_project(farm: Command) -> None:
    farm("submit", "a kite")
    assert len(farm("list", "--owner", "local", "--json").lines) == 1
    assert farm("list", "--owner", "mei", "--json").out == "[]\n"
    assert "no job matches" in farm("list", "--project", "film").err
