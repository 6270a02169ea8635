"""The same jobs end to end on SQLite and a folder, and on Postgres and SeaweedFS, while things are killed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from farm.media.check import decode
from farm.storage.s3 import S3Store
from tests.line.test_line import ROOT, until
from tests.private_servers import Server, private_postgres, private_seaweedfs


@dataclass
class Line:
    """A farm on its servers, if it has any."""

    home: Path
    url: str
    options: dict[str, str]
    servers: dict[str, Server] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)

    def farm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "FARM_URL": self.url, **self.options}
        command = [sys.executable, "-m", "farm.cli.main", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def submit(self, prompt: str) -> str:
        status, job = self.ask("/api/jobs", {"prompt": prompt})
        assert status == 201, job
        self.accepted.append(job["id"])
        return job["id"]

    def job(self, job: str) -> dict[str, Any]:
        """Also while the database is away: then it is an error, and has no state."""
        return self.ask(f"/api/jobs/{job}")[1]

    def denoises(self, job: str) -> bool:
        at = self.job(job).get("progress")
        return at is not None and at["stage"] == "denoise" and at["k"] >= 2

    def succeeded(self, job: str) -> dict[str, Any]:
        return until(f"{job} succeeds", lambda: (j := self.job(job)).get("state") == "succeeded" and j)

    def stored(self, key: str) -> bool:
        server = self.servers["seaweedfs"].server
        return (
            S3Store(f"s3://farm/studio?endpoint={server.endpoint}", (server.access_key, server.secret_key)).size(
                key
            )
            is not None
        )

    def missing(self, part: str) -> str | None:
        """What /readyz says is wrong with this part of the farm."""
        status, said = self.ask("/readyz")
        assert status == (200 if said["status"] == "ok" else 503)
        return None if said["checks"][part] == "ok" else said["checks"][part]


@contextlib.contextmanager
def _servers(kind: str) -> Iterator[tuple[dict[str, Server], dict[str, str]]]:
    if kind == "files":
        yield {}, {}
        return
    with private_postgres() as postgres, private_seaweedfs() as seaweedfs:
        options = {
            "FARM_DATABASE_URL": postgres.server.url,
            "FARM_STORE": "s3://farm/studio",
            "FARM_S3_ENDPOINT": seaweedfs.server.endpoint,
            **seaweedfs.server.credentials,
        }
        yield {"postgres": postgres, "seaweedfs": seaweedfs}, options


@pytest.fixture(scope="module", params=["files", "servers"])
def line(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("line")
    with _servers(request.param) as (servers, options):
        options["FARM_PIPELINE"] = "tests.line.gated_model:Pipeline"
        line = Line(home, f"http://127.0.0.1:{port}", options, servers)
        up = line.farm("up", "--background", "--home", str(home), "--port", str(port))
        try:
            assert up.returncode == 0, up.stderr
            yield line
        finally:
            down = line.farm("down", "--home", str(home))
        assert down.returncode == 0


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def test_it_says_what_it_stands_on_and_no_password(line: Line) -> None:
    said = line.farm("status").stdout
    if line.servers:
        assert "database postgresql://farm:***@127.0.0.1" in said
        assert f"store    s3://farm/studio?endpoint={line.servers['seaweedfs'].server.endpoint}" in said
    else:
        assert f"database sqlite:///{line.home}/farm.db" in said
        assert f"store    {line.home}/store" in said
    secrets = [line.options[name] for name in ("AWS_SECRET_ACCESS_KEY",) if name in line.options]
    secrets += [server.server.password for name, server in line.servers.items() if name == "postgres"]
    logs = "".join(path.read_text(errors="replace") for path in (line.home / "logs").iterdir())
    assert not [secret for secret in secrets if secret in said + logs]


def test_a_killed_worker_costs_an_attempt_and_no_job(line: Line, gate: Path) -> None:
    others = [line.submit(f"a square, number {n}") for n in range(3)]
    job = line.submit(f"gate={gate}")
    until("the job denoises", lambda: line.denoises(job))
    (worker,) = [w for w in line.ask("/api/workers")[1]["data"] if w["state"] == "busy"]
    os.kill(worker["pid"], signal.SIGKILL)
    gate.touch()
    attempts = line.succeeded(job)["attempts"]
    assert sorted((a["epoch"], a["outcome"]) for a in attempts) == [(1, "lost"), (2, "succeeded")]
    for other in others:
        line.succeeded(other)


def test_a_killed_database_is_waited_out_and_the_render_goes_on(line: Line, gate: Path) -> None:
    if "postgres" not in line.servers:
        pytest.skip("a file is not a process")
    job = line.submit(f"gate={gate}")
    until("the job denoises", lambda: line.denoises(job))
    line.servers["postgres"].kill()
    until("/readyz names the database", lambda: "the database farm on" in (line.missing("database") or ""))
    status = line.farm("status")
    assert status.returncode == 1
    assert "database: cannot reach the database farm on 127.0.0.1" in status.stdout
    code, said = line.ask(f"/api/jobs/{job}")
    assert (code, said["error"]["code"]) == (503, "database_unavailable")
    assert line.ask("/api/jobs", {"prompt": "not now"})[0] == 503
    gate.touch()  # it is rendered and stored while nobody can be told
    video = f"videos/{job}/1/video.mp4"
    until("the video is stored", lambda: line.stored(video))
    line.servers["postgres"].start()
    assert [a["outcome"] for a in line.succeeded(job)["attempts"]] == ["succeeded"], "rendered once"
    until("/readyz is content", lambda: line.missing("database") is None)


def test_a_killed_store_is_waited_out_with_the_finished_video(line: Line, gate: Path) -> None:
    if "seaweedfs" not in line.servers:
        pytest.skip("a folder is not a process")
    job = line.submit(f"gate={gate}")
    until("the job denoises", lambda: line.denoises(job))
    behind = line.submit("the next in the queue")
    line.servers["seaweedfs"].kill()
    until("/readyz names the store", lambda: "does not answer" in (line.missing("store") or ""))
    gate.touch()
    because = until(
        "the job says what it waits for",
        lambda: (
            (w := line.job(job)["waiting_because"])["code"] == "store_away"
            and line.job(job)["progress"]["stage"] == "upload"
            and w
        ),
    )
    assert "Its video is finished and waits for the store" in because["sentence"]
    assert line.job(behind)["waiting_because"]["code"] == "store_away"
    status = line.farm("status")
    assert status.returncode == 1
    assert "store: the store at http://127.0.0.1" in status.stdout
    line.servers["seaweedfs"].start()
    for each in (job, behind):
        assert [a["outcome"] for a in line.succeeded(each)["attempts"]] == ["succeeded"], "rendered once"


def test_nothing_accepted_is_lost_and_every_video_is_whole(line: Line, tmp_path: Path) -> None:
    for job in line.accepted:
        found = line.succeeded(job)
        assert [a["outcome"] for a in found["attempts"]].count("succeeded") == 1
        saved = tmp_path / f"{job}.mp4"
        done = line.farm("download", job, "-o", str(saved))
        assert done.returncode == 0, done.stderr
        assert saved.stat().st_size == found["artifact"]["bytes"]
        assert decode(saved).shape == (33, 192, 192, 3)
    counts = line.ask("/api/jobs")[1]["counts"]
    assert counts["succeeded"] == sum(counts.values()) == len(line.accepted)
