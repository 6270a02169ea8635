"""`python -m farm.bench.page`: how soon the page is painted over a queue of many jobs.

A throw-away server of its own, without workers; each view is opened anew several times, with a cold cache. Needs
Chromium and playwright.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from farm.cluster.ray_node import free_port
from farm.db import jobs
from farm.db.engine import migrate, open_database
from farm.domain.job import JobSpec, NewJob
from farm.settings import Settings, load_settings
from farm.throwaway import NeverHappened, until
from model.wan.config import preset

MODEL = "demo-t2v"
VIEWS = {
    "all jobs": "/",
    "the queue": "/?state=queued",
    "a page within it": "/?state=queued&after={middle}",
    "a search": "/?q=number+77",
    "a tag": "/?tag=shot%3D7",
}
GOAL = 1.0  # seconds
# When the first words were on the screen, and when everything of the page was there.
_PAINTED = """() => {
    const [page] = performance.getEntriesByType("navigation");
    const [paint] = performance.getEntriesByName("first-contentful-paint");
    return [page.responseStart / 1000, paint.startTime / 1000, page.loadEventEnd / 1000];
}"""


@contextmanager
def server(count: int) -> Generator[tuple[str, list[str]]]:
    """The address of a farm with that many waiting jobs, and their ids."""
    home = Path(tempfile.mkdtemp(prefix="farm-bench-page-"))
    settings = load_settings(home=home, port=free_port(), model=MODEL, log_level="WARNING")
    settings.make_folders()
    migrate(settings.database_url)
    db = open_database(settings.database_url)
    submitted = jobs.submit(db, [_job(number) for number in range(count)])
    db.close()
    process = _serve(settings)
    try:
        url = f"http://127.0.0.1:{settings.port}"
        until("the server answers", lambda: process.poll() is not None or _answers(url))
        yield url, [one.job.id for one in submitted]
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(home)


def measure(url: str, times: int) -> tuple[float, float, float]:
    """Medians in seconds: until the server answers, until the page is painted, until all of it is there."""
    from playwright.sync_api import sync_playwright

    chromium = next(
        (p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None
    )
    if chromium is None:
        raise NeverHappened("no Chromium found", "install it: apt-get install chromium")
    found: list[list[float]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(times + 1):
            page = browser.new_context(viewport={"width": 1360, "height": 900}).new_page()
            page.goto(url)
            page.wait_for_selector(".row")
            page.wait_for_selector("#link[data-state=live]")
            found.append(cast("list[float]", page.evaluate(_PAINTED)))
            page.context.close()
        browser.close()
    warm = found[1:]  # the first one also starts the browser's processes
    answered, painted, whole = (statistics.median(column) for column in zip(*warm, strict=True))
    return answered, painted, whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    print(f"{args.jobs} jobs in the queue, SQLite, {os.cpu_count()} cores; medians of {args.times}, cold cache")
    print(f"{'view':<20}{'answered':>10}{'painted':>10}{'whole':>10}   goal {GOAL:g} s painted")
    slow = False
    with server(args.jobs) as (url, ids):
        for name, path in VIEWS.items():
            told = measure(url + path.format(middle=ids[len(ids) // 2]), args.times)
            slow |= told[1] >= GOAL
            print(f"{name:<20}" + "".join(f"{seconds:>8.2f} s" for seconds in told))
    return int(slow)


def _job(number: int) -> NewJob:
    plan = preset(MODEL)
    spec = JobSpec(
        kind=plan.task, model=MODEL, model_digest="bench", prompt=f"a red circle, number {number}", seed=number,
        width=plan.size[0], height=plan.size[1], frames=plan.frames, fps=plan.fps, steps=plan.steps,
        guidance=plan.guidance,
    )  # fmt: skip
    return NewJob(spec=spec, tags={"shot": str(number % 50)})


def _serve(settings: Settings) -> "subprocess.Popen[bytes]":
    clean: dict[str, Any] = {k: v for k, v in os.environ.items() if not k.startswith("FARM_")}
    command = [sys.executable, "-m", "farm.api.server"]
    return subprocess.Popen(command, env={**clean, **settings.environment()}, stdin=subprocess.DEVNULL)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=2):
            return True
    except OSError:
        time.sleep(0.1)
        return False


if __name__ == "__main__":
    sys.exit(main())
