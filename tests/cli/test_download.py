"""`farm download`: whole or not at all, gone on with where it was cut off, and in the form that people need."""

import hashlib
import http.server
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from farm.media.mp4 import read_tags
from tests.cli.command import Command
from tests.served.machine import Machine

PROMPT = "一只红色的风筝: up/down?"


@pytest.fixture
def job(farm: Command, machine: Machine) -> dict[str, Any]:
    made = farm("submit", PROMPT, "--seed", "7", "--json").json
    machine.take()
    machine.finish()
    return made


def stream_of(path: Path) -> tuple[str, str, float, int]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        return stream.codec_context.name, str(stream.codec_context.profile), float(stream.average_rate or 0), frames


def test_for_players_for_editors_and_at_another_rate(farm: Command, job: dict[str, Any], tmp_path: Path) -> None:
    def saved(name: str, *options: str) -> Path:
        done = farm("download", job["id"], "-o", name, *options)
        assert (done.code, done.out.strip()) == (0, name), done.err
        return tmp_path / name

    fps, frames = job["fps"], job["frames"]
    assert stream_of(saved("p.mp4", "--transcode")) == ("h264", "Constrained Baseline", fps, frames)
    assert stream_of(saved("e.mov", "--for", "prores")) == ("prores", "HQ", fps, frames)
    slower = stream_of(saved("r.mp4", "--fps", "24"))
    assert slower[1:3] == ("High", 24)
    assert abs(slower[3] / 24 - frames / fps) <= 1 / 24, "as long as before"
    assert stream_of(saved("c.mp4", "--fps", "25", "--conform"))[2:] == (25, frames)
    for name in ("p.mp4", "e.mov", "r.mp4"):
        told = read_tags(tmp_path / name)
        assert (told["prompt"], json.loads(told["AIGC"])["ProduceID"]) == (PROMPT, job["id"])


def test_pictures_come_as_a_folder_that_is_complete(farm: Command, job: dict[str, Any], tmp_path: Path) -> None:
    done = farm("download", job["id"], "--for", "png", "-o", "frames", "--json")
    assert done.code == 0, done.err
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == [*(f"frame_{n:05}.png" for n in range(1, job["frames"] + 1)), "settings.json"]
    with Image.open(tmp_path / "frames" / "frame_00001.png") as image:
        assert f"{image.width}x{image.height}" == job["size"]
        assert image.info["prompt"] == PROMPT
    assert farm("download", job["id"], "--for", "png", "-o", "frames").out.strip() == f"frames/{job['id']}"
    again = farm("download", job["id"], "--for", "png", "-o", "frames")
    assert (again.code, "is there already" in again.err) == (2, True)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_poster_and_strip(farm: Command, job: dict[str, Any], tmp_path: Path) -> None:
    assert farm("download", job["id"], "--poster", "-o", "p.jpg").code == 0
    assert farm("download", job["id"], "--strip", "-o", "s.jpg").code == 0
    with Image.open(tmp_path / "p.jpg") as poster, Image.open(tmp_path / "s.jpg") as strip:
        assert f"{poster.width}x{poster.height}" == job["size"]
        assert strip.width > 7 * strip.height


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--fps", "0"], "the nearest is 1"),
        (["--fps", "500"], "the nearest is 120"),
        (["--conform"], "--fps 24"),
        (["--poster", "--strip"], "without --for"),
        (["--poster", "--fps", "24"], "without --for"),
        (["-o", "{prompt!r}{nothing}.mp4"], "{seed}"),
        (["-o", "{seed"], "{seed}"),
        (["--for", "vhs"], "prores"),
    ],
)
def test_what_cannot_be_is_a_usage_error(farm: Command, job: dict[str, Any], options: list[str], hint: str) -> None:
    done = farm("download", job["id"], *options)
    assert (done.code, done.out) == (2, "")
    assert hint in done.err


def test_a_pattern_names_many_and_words_of_prompts_are_made_safe(
    farm: Command, job: dict[str, Any], machine: Machine, tmp_path: Path
) -> None:
    second = farm("submit", "a kite", "--seed", "8").out.strip()
    machine.take()
    machine.finish()
    (tmp_path / "shots").mkdir()
    done = farm("download", job["id"], second, "-o", "shots/{n:03}_{prompt}_{seed}.mp4", "--checksum")
    assert done.code == 0, done.err
    assert done.out.splitlines() == ["shots/001_一只红色的风筝- up-down-_7.mp4", "shots/002_a kite_8.mp4"]
    said = subprocess.run(["sha256sum", "-c", "002_a kite_8.mp4.sha256"], cwd=tmp_path / "shots")
    assert said.returncode == 0
    assert farm("inspect", "shots/002_a kite_8.mp4", "--json").json["sidecar"] == "matches"
    refused = farm("download", job["id"], second, "-o", "one.mp4")
    assert (refused.code, "fewer files" in refused.err) == (2, True)


@dataclass
class Cutting:
    """A farm with one video, whose connections break after so many bytes."""

    video: bytes
    breaks_after: list[int]
    asked: list[str | None] = field(default_factory=list)
    url: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.video).hexdigest()


@pytest.fixture
def cutting() -> Iterator[Cutting]:
    farm = Cutting(bytes(range(256)) * 20_000, [])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith("/job_x"):
                artifact = {"sha256": farm.sha256, "bytes": len(farm.video)}
                told = {"id": "job_x", "artifact": artifact, "prompt": "a", "seed": 1, "model": "m", "size": "1x1"}
                body = json.dumps({**told, "project": "p", "batch": None, "fps": 12}).encode()
                self.send_response(200)
            else:
                farm.asked.append(self.headers["Range"])
                found = re.match(r"bytes=(\d+)-", self.headers["Range"] or "")
                same = self.headers["If-Range"] in {None, f'"{farm.sha256}"'}
                body = farm.video[int(found[1]) if found and same else 0 :]
                self.send_response(206 if found and same else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            limit = farm.breaks_after.pop(0) if farm.breaks_after and "content" in self.path else len(body)
            self.wfile.write(body[:limit])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    farm.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield farm
    server.shutdown()
    server.server_close()


def test_a_connection_that_breaks_is_gone_on_with(cutting: Cutting, tmp_path: Path) -> None:
    cutting.breaks_after = [1_000_000, 2_000_000]
    done = Command(cutting.url, tmp_path)("download", "job_x")
    assert done.code == 0, done.err
    assert (tmp_path / "job_x.mp4").read_bytes() == cutting.video
    assert cutting.asked == [None, "bytes=1000000-", "bytes=3000000-"]


def test_the_next_command_goes_on_where_the_last_one_gave_up(cutting: Cutting, tmp_path: Path) -> None:
    farm = Command(cutting.url, tmp_path)
    cutting.breaks_after = [1_000_000, 0, 0, 0, 0, 0]
    done = farm("download", "job_x")
    assert (done.code, "goes on after the 1 MB" in done.err) == (5, True), done.err
    assert not (tmp_path / "job_x.mp4").exists()
    cutting.asked.clear()
    assert farm("download", "job_x").code == 0
    assert cutting.asked == ["bytes=1000000-"]
    assert (tmp_path / "job_x.mp4").read_bytes() == cutting.video
    assert [path.name for path in tmp_path.iterdir()] == ["job_x.mp4"]


def test_bytes_that_are_not_the_videos_are_not_kept(cutting: Cutting, tmp_path: Path) -> None:
    part = tmp_path / f".job_x.mp4.{cutting.sha256[:12]}.part"
    part.write_bytes(b"something else")
    farm = Command(cutting.url, tmp_path)
    done = farm("download", "job_x")
    assert (done.code, "error broken_video" in done.err) == (1, True)
    assert list(tmp_path.iterdir()) == []
    assert farm("download", "job_x").code == 0
