"""The CI snippets do what they promise: their own shell lines, run as the runner would, against a served farm."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from farm.db import jobs
from farm.domain.states import JobState
from tests.cli.command import ROOT
from tests.served.farm import Served
from tests.served.machine import Machine


def shell_lines(name: str) -> list[str]:
    """What the runner would give to its shell, but the installation."""
    said: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "ci" / name).read_text(encoding="utf-8"))
    if name == "gitlab.yml":
        return said["render"]["script"]
    steps = said["jobs"]["render"]["steps"]
    return [step["run"] for step in steps if "run" in step and "Install" not in step["name"]]


@pytest.fixture
def rendering(machine: Machine, served: Served) -> Iterator[list[str]]:
    """A worker that renders what comes, but fails prompts with "bad" in them. The list: what it took."""
    taken: list[str] = []
    stopping = threading.Event()

    def work() -> None:
        while not stopping.wait(0.05):
            waiting, _ = jobs.find(served.services.db, states=[JobState.QUEUED], order="asc", limit=1)
            if waiting:
                machine.take(waiting[0].lane)
                taken.append(waiting[0].spec.prompt)
                machine.fail() if "bad" in waiting[0].spec.prompt else machine.finish()

    thread = threading.Thread(target=work)
    thread.start()
    yield taken
    stopping.set()
    thread.join(20)


def run(name: str, folder: Path, url: str) -> "subprocess.CompletedProcess[str]":
    """GitHub and GitLab both stop at the first command that fails."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "farm").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m farm.cli.main "$@"\n')
    (tools / "farm").chmod(0o755)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("FARM_")},
        "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "FARM_URL": url,
        "GITHUB_REPOSITORY": "studio/trailer", "GITHUB_SHA": "abc123",
        "CI_PROJECT_NAME": "trailer", "CI_COMMIT_SHA": "abc123",
    }  # fmt: skip
    script = "\n".join(shell_lines(name))
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml"])
def test_it_renders_every_shot_and_a_second_run_none(
    name: str, served: Served, rendering: list[str], tmp_path: Path
) -> None:
    (tmp_path / "shots").mkdir()
    (tmp_path / "shots" / "01_kite.txt").write_text("一只红色的风筝\n", encoding="utf-8")
    (tmp_path / "shots" / "02_boat.txt").write_text("a small boat\n")
    done = run(name, tmp_path, served.url)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("succeeded in") == 2, "it was waited for"
    videos = tmp_path / "videos"
    assert sorted(p.name for p in videos.iterdir()) == [
        "01_kite.mp4", "01_kite.mp4.sha256", "02_boat.mp4", "02_boat.mp4.sha256",
    ]  # fmt: skip
    (kite,) = [job for job in jobs.find(served.services.db)[0] if job.tags["shot"] == "01_kite"]
    assert (kite.project, kite.spec.seed) == ("trailer", 7)
    shutil.rmtree(videos)
    (tmp_path / "jobs.txt").unlink()
    assert run(name, tmp_path, served.url).returncode == 0
    assert sorted(rendering) == ["a small boat", "一只红色的风筝"], "each once"


@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml"])
def test_a_shot_that_fails_fails_the_run(name: str, served: Served, rendering: list[str], tmp_path: Path) -> None:
    (tmp_path / "shots").mkdir()
    (tmp_path / "shots" / "01.txt").write_text("a bad kite\n")
    done = run(name, tmp_path, served.url)
    assert done.returncode == 1
    assert "failed" in done.stderr
    assert list((tmp_path / "videos").iterdir()) == []
