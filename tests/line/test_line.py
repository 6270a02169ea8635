"""The whole line, nothing stood in for: `farm up`, HTTP, a killed actor, our own model, an MP4, the page."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from farm.media.check import decode, read_metadata
from model.demo import probe

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "一个大的蓝色三角形在白色背景上向右移动"


@dataclass
class Line:
    """A farm started as its user starts it."""

    home: Path
    url: str

    def farm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "FARM_URL": self.url}
        command = [sys.executable, "-m", "farm.cli.main", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


def until(what: str, condition: Callable[[], Any], seconds: float = 90.0) -> Any:
    """The first true value of `condition`, within a time that only a broken farm can miss."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail(f"{what} did not happen within {seconds} s")


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port = probe_socket.getsockname()[1]
    line = Line(tmp_path_factory.mktemp("line"), f"http://127.0.0.1:{port}")
    up = line.farm("up", "--background", "--home", str(line.home), "--port", str(port))
    try:
        assert up.returncode == 0, up.stderr
        assert f"Running on local URL: {line.url}" in up.stdout
        yield line
    finally:
        down = line.farm("down", "--home", str(line.home))
    assert down.returncode == 0
    assert "is down" in down.stdout


@pytest.fixture(scope="module")
def job(line: Line) -> dict[str, Any]:
    """A job whose worker was killed in mid-render, after it succeeded."""
    video = line.ask("/v1/videos", {"prompt": PROMPT, "model": "demo-t2v", "seed": 3})

    def rendering() -> bool:
        progress = line.ask(f"/api/jobs/{video['id']}")["progress"]
        return progress is not None and progress["stage"] in ("denoise", "decode")

    until("the job renders", rendering)
    (worker,) = [w for w in line.ask("/api/workers")["data"] if w["state"] == "busy"]
    os.kill(worker["pid"], signal.SIGKILL)
    until("the job succeeds", lambda: line.ask(f"/v1/videos/{video['id']}")["status"] == "completed")
    return line.ask(f"/api/jobs/{video['id']}")


def test_a_killed_worker_costs_an_attempt_and_no_job(job: dict[str, Any]) -> None:
    assert job["state"] == "succeeded"
    attempts = sorted(job["attempts"], key=lambda a: a["epoch"])
    assert [a["outcome"] for a in attempts] == ["lost", "succeeded"]
    assert {"text", "denoise", "decode", "encode", "upload"} <= set(attempts[1]["timings"])


def test_the_video_is_whole_and_shows_the_prompt(line: Line, job: dict[str, Any], tmp_path: Path) -> None:
    saved = tmp_path / "out.mp4"
    done = line.farm("download", job["id"], "-o", str(saved))
    assert done.returncode == 0, done.stderr
    frames = decode(saved)
    assert frames.shape == (33, 192, 192, 3)
    assert probe.read(frames) == probe.Reading("blue", "triangle", "right", "white")
    assert PROMPT in json.dumps(read_metadata(saved), ensure_ascii=False)


def test_a_second_farm_in_the_background_is_refused_in_the_first_ones_words(line: Line) -> None:
    again = line.farm("up", "--background", "--home", str(line.home), "--port", "1")
    assert again.returncode == 1
    assert "farm_already_running" in again.stderr
    assert "farm down" in again.stderr
    assert again.stdout == ""


def test_what_the_dead_attempt_wrote_is_not_what_is_served(line: Line, job: dict[str, Any]) -> None:
    folder = line.home / "store" / "videos" / job["id"]
    assert sorted(p.parent.name for p in folder.rglob("*.mp4")) == ["2"]


def test_the_page_plays_it_in_a_real_browser(line: Line, job: dict[str, Any], browser: Browser) -> None:
    page = browser.new_page()
    page.goto(f"{line.url}/jobs/{job['id']}")
    page.wait_for_function("document.querySelector('video')?.readyState >= 2")
    for side in ("videoWidth", "videoHeight"):
        assert page.evaluate(f"document.querySelector('video').{side}") == 192
    assert page.get_by_text("succeeded").first.is_visible()
    page.close()
