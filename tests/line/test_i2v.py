"""Image to video through the whole line: a picture by command and by HTTP, random undistilled weights, an MP4."""

import io
import json
import os
import socket
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from farm.media.check import decode
from tests.line.test_line import ROOT, Line, until
from tests.model import small

PROMPT = "a red kite over the dunes"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A farm whose library holds a small random model as Wan2.2's is published: two experts, guidance."""
    home = tmp_path_factory.mktemp("i2v")
    library = small.install(home, small.BASE, small.save_base)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"FARM_MODELS": str(library.folder), "FARM_MODEL": small.BASE.name}
    line = Line(home, f"http://127.0.0.1:{port}")
    up = run(line, options, "up", "--background", "--home", str(home), "--port", str(port))
    try:
        assert up.returncode == 0, up.stderr
        yield line
    finally:
        down = line.farm("down", "--home", str(home))
    assert down.returncode == 0


def run(line: Line, options: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FARM_URL": line.url, **options}
    command = [sys.executable, "-m", "farm.cli.main", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def picture(width: int, height: int, kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def test_a_picture_becomes_a_video_by_one_command(line: Line, tmp_path: Path) -> None:
    (tmp_path / "still.png").write_bytes(picture(120, 90, "PNG"))
    saved = tmp_path / "out.mp4"
    done = line.farm(
        "submit", PROMPT, "--image", str(tmp_path / "still.png"), "--fit", "pad", "--seed", "5", "--wait",
        "-o", str(saved),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert decode(saved).shape == (9, 48, 64, 3)  # 4:3, at the model's area


def test_the_clients_form_brings_picture_and_guidance_and_every_stage_is_timed(line: Line, tmp_path: Path) -> None:
    boundary = uuid.uuid4().hex
    fields = {"prompt": PROMPT, "model": small.BASE.name, "guidance": "3", "negative_prompt": "the blue sea"}
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
        for k, v in fields.items()
    )
    body += (
        f'--{boundary}\r\nContent-Disposition: form-data; name="input_reference"; filename="a.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    ).encode()
    body += picture(60, 120, "JPEG") + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(
        f"{line.url}/v1/videos", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        video: dict[str, Any] = json.load(answer)
    until("it ends", lambda: line.ask(f"/v1/videos/{video['id']}")["status"] in ("completed", "failed"))
    job = line.ask(f"/api/jobs/{video['id']}")
    assert job["state"] == "succeeded", job["error"]
    assert {"text", "image", "denoise", "decode", "encode", "upload"} <= set(job["timings"])
    saved = tmp_path / "tall.mp4"
    assert line.farm("download", job["id"], "-o", str(saved)).returncode == 0
    frames = decode(saved)
    assert frames.shape[2] < frames.shape[1]  # as tall as the picture


def test_a_model_of_images_is_refused_without_one(line: Line) -> None:
    refused = line.farm("submit", PROMPT)
    assert refused.returncode == 2
    assert "--image" in refused.stderr
