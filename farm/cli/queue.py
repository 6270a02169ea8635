"""`farm usage` and `farm logs`: what people have used, and what was written about a job."""

from urllib.parse import quote

import click

from farm.cli import output
from farm.cli.client import Client

JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable.")


@click.command()
@click.option("--days", type=click.FloatRange(0, 366, min_open=True), default=30.0, show_default=True)
@JSON
def usage(days: float, as_json: bool) -> None:
    """GPU time and videos by owner and project, the most first."""
    found = Client().get("/api/usage", days=days)["data"]
    if as_json:
        output.records(found)
        return
    rows = [
        [u["owner"], u["project"], str(u["videos"]), str(u["attempts"]), f"{u['gpu_seconds'] / 3600:.2f}"]
        for u in found
    ]
    if rows:
        output.table(rows, ["owner", "project", "videos", "attempts", "GPU hours"])
    else:
        output.note(f"nothing was rendered within {days:g} days")


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option("--limit", type=click.IntRange(1, 5000), default=500, show_default=True, help="Lines, the last ones.")
@JSON
def logs(job_id: str, limit: int, as_json: bool) -> None:
    """What the processes of the server's machine wrote about JOB; render nodes keep their own logs."""
    found = Client().get(f"/api/jobs/{quote(job_id, safe='')}/logs", limit=limit)["data"]
    if as_json:
        output.records(found)
        return
    for line in found:
        known = {"time", "level", "process", "pid", "job", "epoch", "event", "traceback"}
        more = "  ".join(f"{name}={value}" for name, value in line.items() if name not in known)
        epoch = f" #{line['epoch']}" if line.get("epoch") else ""
        output.data(f"{line.get('time')}  {line.get('process')}{epoch}  {line.get('event')}  {more}".rstrip())
    if not found:
        output.note("nothing was written about it on the server's machine")
