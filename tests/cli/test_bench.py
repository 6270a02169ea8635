"""`farm bench`: a menu that tells the truth about this machine, and the real benchmarks behind it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from farm.bench import menu
from farm.bench.menu import BENCHES, Bench
from farm.cli import bench as room
from tests.cli.command import Command

SPEAKS = """
import sys
if "--json" in sys.argv:
    print('{"a": 1}'); print('{"a": 2}')
else:
    print("a is 1")
"""


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A menu of three: one that speaks JSON, one that misses its goal, one that needs a GPU."""
    (tmp_path / "speaks.py").write_text(SPEAKS)
    (tmp_path / "misses.py").write_text("print('MISS 3 s'); raise SystemExit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("FARM_NVML", "tests.cluster.fake_nvml")
    monkeypatch.setenv("FAKE_GPUS", "GPU-a")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    benches = (
        Bench("speaks", "model", "speaks", "says", "1 s", json=True),
        Bench("misses", "farm", "misses", "says", "1 s"),
        Bench("wants", "model", "speaks", "says", "1 s", ("gpu",), json=True),
    )
    for place in (menu, room):
        monkeypatch.setattr(place, "BENCHES", benches)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(room.bench, arguments)


def test_every_benchmark_of_the_menu_is_there_and_takes_its_arguments() -> None:
    for one in BENCHES:
        assert importlib.util.find_spec(one.module) is not None, one.name
        helped = subprocess.run(
            [sys.executable, "-m", one.module, "--help"], capture_output=True, text=True, check=True
        )
        assert ("--json" in helped.stdout) == one.json, one.name
        for argument in one.arguments:
            assert argument in helped.stdout, one.name


def test_the_menu_says_what_each_needs_and_what_is_not_here(farm: Command) -> None:
    farm.environment |= {"FARM_NVML": "tests.cluster.fake_nvml", "FAKE_GPUS": "GPU-a", "CUDA_VISIBLE_DEVICES": ""}
    rows = {row["bench"]: row for row in farm("bench", "--json").lines}
    assert set(rows) == {one.name for one in BENCHES}
    assert rows["kernels"]["missing"] == ["no GPU is visible here"]
    assert rows["watchers"]["missing"] == []
    told = farm("bench")
    assert (told.code, "no GPU is visible here" in told.out) == (0, True)
    farm.environment["CUDA_VISIBLE_DEVICES"] = "0"
    assert {row["bench"]: row["missing"] for row in farm("bench", "--json").lines}["kernels"] == []


def test_what_cannot_run_here_is_skipped_with_its_reason(farm: Command) -> None:
    farm.environment |= {"FARM_NVML": "tests.cluster.fake_nvml", "FAKE_GPUS": "GPU-a", "CUDA_VISIBLE_DEVICES": ""}
    done = farm("bench", "kernels", "--json")
    assert (done.code, done.json) == (1, {"bench": "kernels", "skipped": "no GPU is visible here"})
    assert done.err == "kernels is skipped: no GPU is visible here\n"
    strange = farm("bench", "disks")
    assert (strange.code, "'disks' is not one of: kernels, model, farm" in strange.err) == (2, True)


def test_each_result_is_one_line_and_the_worst_counts(measured: Path) -> None:
    good = run("model", "--json")
    assert good.exit_code == 0
    first, second = map(json.loads, good.stdout.splitlines())
    assert (first["bench"], first["exit"], first["result"]) == ("speaks", 0, [{"a": 1}, {"a": 2}])
    assert second == {"bench": "wants", "skipped": "no GPU is visible here"}
    both = run("farm", "speaks", "--json")
    assert both.exit_code == 1
    assert [json.loads(line)["result"] for line in both.stdout.splitlines()] == [
        [{"a": 1}, {"a": 2}], ["MISS 3 s"]
    ]  # fmt: skip
    assert run("wants").exit_code == 1
