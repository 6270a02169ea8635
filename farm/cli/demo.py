"""`farm demo`, behind `make demo`: a farm of its own, three prompts, a killed worker, three videos.

It tells only what it has seen: what did not happen as told ends it with exit 1.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Generator
from pathlib import Path
from typing import Any

import click

from farm.cli import output
from farm.cli.client import Client, Json
from farm.cli.demo_screen import Screen
from farm.cli.download import save
from farm.domain.errors import FarmError, FarmUnreachable

PROMPTS = (
    "a large red circle moving left to right on a black background",
    "a large blue star moving up on a white background",
    "一个大的绿色方块在黑色背景上向左移动",
)
HELD_PROMPT = "a small yellow triangle spinning on a grey background"
SEEDS = (7, 11, 23)
SPARED = 1  # jobs that are left in peace before a worker is killed
OUT = Path("demo-out")

START_PATIENCE = 150.0  # seconds until the farm answers: the first start of Ray on a cold disk is slow
RENDER_PATIENCE = 300.0  # seconds for all three jobs together
FINAL = {"succeeded", "failed", "cancelled"}
LOOK = 0.05  # seconds between two looks at the jobs: denoising may take less than a second


class DemoFailed(FarmError):
    """Something did not happen as told."""

    code = "demo_failed"


@click.command(hidden=True)
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True)
def demo(out: Path) -> None:
    """Show the whole farm in two minutes: three prompts, one killed worker, three videos."""
    # A terminated demo must end its farm as an interrupted one does: both leave through `finally`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _farm() as client:
        output.data(f"The page of this farm, while the demo runs: {client.url}\n")
        held = client.post("/api/jobs", {"prompt": HELD_PROMPT, "hold": True})
        jobs = [
            client.post("/api/jobs", {"prompt": prompt, "seed": seed})
            for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
        ]
        done, killed = _watch(client, [job["id"] for job in jobs])
        _check(done, killed)
        videos, sheet = _collect(client, done, out)
        _report(client, done, videos, sheet, held)
    output.data("Everything the demo started is stopped. Next:\n")
    output.data("  make up                                          a farm that stays, with its page")
    output.data('  .venv/bin/farm submit "a pink ring growing on a black background" --wait -o ring.mp4')
    output.data("  .venv/bin/farm list")
    output.data("  make down")


@contextlib.contextmanager
def _farm() -> Generator[Client]:
    """A farm in a fresh folder on a free loopback port; gone when the block is left, however it is left."""
    home = Path(tempfile.mkdtemp(prefix="turbofarm-demo-"))
    port = _free_port()
    output.data(f"Starting a farm on 127.0.0.1:{port} ...")
    # The demo's farm is nobody else's: settings of the caller's own farm stay out of it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FARM_")}
    command = [sys.executable, "-m", "farm.cli.main", "up", "--home", str(home), "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--workers", "1"], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace", start_new_session=True,
    )  # fmt: skip
    said: deque[str] = deque(maxlen=30)
    ready = threading.Event()
    reader = threading.Thread(target=_read, args=(process, said, ready), daemon=True)
    reader.start()
    kept = False
    try:
        _wait_ready(process, ready, said)
        yield Client(f"http://127.0.0.1:{port}")
    except FarmError as error:
        kept = True
        error.next = f"{error.next + '; ' if error.next else ''}the farm's logs are kept in {home / 'logs'}"
        raise
    finally:
        _stop(process)
        reader.join(5)
        if not kept:
            shutil.rmtree(home, ignore_errors=True)


def _read(process: subprocess.Popen[str], said: deque[str], ready: threading.Event) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line.rstrip())
        if "Running on local URL" in line:
            ready.set()


def _wait_ready(process: subprocess.Popen[str], ready: threading.Event, said: deque[str]) -> None:
    end = time.monotonic() + START_PATIENCE
    while not ready.wait(0.2):
        if process.poll() is not None:
            raise DemoFailed("the farm did not start:\n" + "\n".join(said))
        if time.monotonic() > end:
            raise DemoFailed(f"the farm was not ready after {START_PATIENCE:.0f} s:\n" + "\n".join(said))


def _stop(process: subprocess.Popen[str]) -> None:
    """`farm up` ends its children itself; its session is killed only where it does not answer."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _watch(client: Client, ids: list[str]) -> tuple[list[Json], int]:
    """Draws the jobs until all are final, and kills one worker in mid-render on the way.

    Returns the jobs, and the place of the one whose worker was killed.
    """
    screen = Screen(client)
    killed: int | None = None
    end = time.monotonic() + RENDER_PATIENCE
    while True:
        by_id = {job["id"]: job for job in client.get("/api/jobs", limit=50)["data"]}
        jobs = [by_id[job_id] for job_id in ids]
        screen.draw(jobs)
        for place, job in enumerate(jobs):
            if killed is None and place >= SPARED and _in_mid_render(job):
                killed = place if _kill_worker_of(client, place, job, screen) else None
        if all(job["state"] in FINAL for job in jobs):
            screen.close()
            if killed is None:
                raise DemoFailed("no worker was killed: no job was met in mid-render", "run it again")
            return [client.job(job_id) for job_id in ids], killed
        if time.monotonic() > end:
            screen.close()
            stuck = next(job for job in jobs if job["state"] not in FINAL)
            because = client.job(stuck["id"])["waiting_because"]
            late = f"the jobs were not done after {RENDER_PATIENCE:.0f} s"
            raise DemoFailed(f"{late}: {because['sentence']}", because["help"])
        time.sleep(LOOK)


def _in_mid_render(job: Json) -> bool:
    """Four steps are over before one looks again; most of a small video's time goes into decoding it."""
    at = job["progress"]
    if job["state"] != "running" or at is None:
        return False
    return at["stage"] == "decode" or (at["stage"] == "denoise" and at["k"] > 0)


def _kill_worker_of(client: Client, place: int, job: Json, screen: Screen) -> bool:
    """SIGKILL to the process that renders `job`; False if nobody does any more."""
    workers: list[Json] = client.get("/api/workers")["data"]
    worker = next((w for w in workers if w["job"] == job["id"]), None)
    if worker is None:
        return False
    try:
        os.kill(worker["pid"], signal.SIGKILL)
    except ProcessLookupError:
        return False
    screen.say(
        f"Killed the worker (pid {worker['pid']}) with SIGKILL while it rendered job {place + 1} (last seen: "
        f"{job['progress']['stage']}). The farm starts another worker, which takes the job again."
    )
    return True


def _check(jobs: list[Json], killed: int) -> None:
    for number, job in enumerate(jobs, start=1):
        if job["state"] != "succeeded":
            error = job["error"] or {"message": f"it ended as {job['state']}", "next": ""}
            raise DemoFailed(f"job {number} has no video: {error['message']}", error["next"])
    outcomes = [attempt["outcome"] for attempt in jobs[killed]["attempts"]]
    if len(outcomes) < 2 or outcomes[0] != "lost" or outcomes[-1] != "succeeded":
        raise DemoFailed(f"job {killed + 1} should have been lost and then succeeded, but: {', '.join(outcomes)}")


def _collect(client: Client, jobs: list[Json], out: Path) -> tuple[list[Path], Path]:
    """The videos and one sheet of their frames, below `out`."""
    from farm.media.check import check_video, decode
    from farm.media.stills import sheet

    out.mkdir(parents=True, exist_ok=True)
    videos: list[Path] = []
    for number, job in enumerate(jobs, start=1):
        words = re.sub(r"[^\w]+", "-", job["prompt"])[:40].strip("-")
        path = save(client, job, out / f"{number}-{words}.mp4")
        check_video(path, job["frames"], (job["width"], job["height"]))
        videos.append(path)
    picture = out / "frames.png"
    picture.write_bytes(sheet([decode(path) for path in videos], [job["prompt"] for job in jobs]))
    return videos, picture


def _report(client: Client, jobs: list[Json], videos: list[Path], sheet: Path, held: Json) -> None:
    output.data()
    for number, (job, path) in enumerate(zip(jobs, videos, strict=True), start=1):
        output.data(f"{number}  {job['prompt']}")
        output.data(f"   {_line(job)}")
        output.data(f"   {path}  {path.stat().st_size} bytes")
    output.data(f"\nFrames of all three: {sheet}")
    because: dict[str, Any] = client.job(held["id"])["waiting_because"]
    output.data(f"\nA fourth job was submitted on hold. $ farm why {held['id']}")
    output.data(f"   {because['sentence']} {because['help']}\n")


def _line(job: Json) -> str:
    last = job["attempts"][-1]
    stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in last["timings"].items())
    count = len(job["attempts"])
    attempts = "1 attempt" if count == 1 else f"{count} attempts (first: {job['attempts'][0]['outcome']})"
    return f"seed {job['seed']}, {attempts}, seconds: {stages}"


def _free_port() -> int:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 0))
        except OSError as error:
            raise FarmUnreachable(f"no loopback port is free: {error.strerror}", "close something") from None
        return probe.getsockname()[1]
