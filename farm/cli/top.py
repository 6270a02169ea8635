"""`farm top`: who renders what, and what comes next, live."""

import sys
import time
from datetime import UTC, datetime

import click

from farm.cli import output
from farm.cli.client import Client, Json
from farm.cli.config import colour
from farm.domain.errors import FarmUnreachable

PACE = 1.0  # seconds
BAR = 20
SHOWN = 12  # jobs that wait


@click.command()
@click.option("--once", is_flag=True, help="Print it once and end; so it does on a pipe.")
@click.option("--json", "as_json", is_flag=True, help="Once, as one JSON object.")
def top(once: bool, as_json: bool) -> None:
    """Workers, running jobs and the head of the queue, live until Ctrl-C."""
    client = Client()
    if as_json:
        output.record(_seen(client))
        return
    if once or not sys.stdout.isatty():
        for line in _drawn(client.url, _seen(client)):
            output.data(line)
        return
    try:
        while True:
            try:
                lines = _drawn(client.url, _seen(client))
            except FarmUnreachable as error:
                lines = [error.message, "asking again ..."]
            # Home, each line to its end, then what is left of the last picture.
            sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
            sys.stdout.flush()
            time.sleep(PACE)
    except KeyboardInterrupt:
        output.data()


def _seen(client: Client) -> Json:
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "health": client.get("/api/health"),
        "running": list(client.jobs(limit=200, state=["running", "leased"])),
        "waiting": list(client.jobs(limit=SHOWN, state=["queued"], order="asc")),
    }


def _drawn(url: str, seen: Json) -> list[str]:
    health: Json = seen["health"]
    counts = ", ".join(f"{n} {output.state(name)}" for name, n in health["jobs"].items() if n) or "no jobs"
    lines = [f"{url}  {health['status']}  {counts}", ""]
    jobs: dict[str, Json] = {job["id"]: job for job in seen["running"]}
    for worker in health["workers"]:
        job = jobs.get(worker["job"] or "")
        doing = output.state(worker["state"]) if job is None else f"{_bar(job)}  {output.cut(job['prompt'], 44)}"
        lines.append(f"{output.padded(worker['id'], 14)}  {output.padded(worker['device'], 18)}  {doing}")
    if not health["workers"]:
        lines.append("no worker: jobs wait until one is there")
    if seen["waiting"]:
        lines += ["", "next"]
        lines += [
            f"{job['id']}  {output.age(job['created_at']):>4}  {job['model']}  {output.cut(job['prompt'], 60)}"
            for job in seen["waiting"]
        ]
    return lines


def _bar(job: Json) -> str:
    at: Json = job["progress"] or {"stage": job["state"], "k": 0, "n": 0}
    full = round(BAR * job["percent"] / 100)
    bar = "━" * full + "─" * (BAR - full)
    if colour(sys.stdout):
        bar = f"\x1b[36m{bar[:full]}\x1b[0m\x1b[2m{bar[full:]}\x1b[0m"
    steps = f" {at['k']}/{at['n']}" if at["n"] else ""
    return f"{bar} {job['percent']:3d} %  {at['stage']}{steps}"
