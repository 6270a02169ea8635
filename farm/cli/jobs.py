"""Commands about jobs that exist: list, show, why, open, cancel, hold, release, priority, retry, rerun."""

import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from farm.cli import output
from farm.cli.client import Client, Json, Refused
from farm.domain.errors import Exit

JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable.")


@click.command("list")
@click.option("--state", multiple=True, help="queued, running, held, succeeded, failed, cancelled; repeatable.")
@click.option("--search", help="Words of the prompt.")
@click.option("--batch", help="Jobs of one batch.")
@click.option("--owner", help="Jobs of one person.")
@click.option("--project", help="Jobs of one project.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@JSON
def list_jobs(
    state: tuple[str, ...],
    search: str | None,
    batch: str | None,
    owner: str | None,
    project: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs, newest first."""
    wanted = {"search": search, "batch": batch, "owner": owner, "project": project}
    jobs = Client().jobs(limit=limit, state=list(state) or None, **wanted)
    if as_json:
        output.records(jobs)
        return
    rows = [
        [
            j["id"],
            output.state(j["state"]),
            output.age(j["created_at"]),
            str(j["seed"]),
            output.cut(j["prompt"], 60),
        ]
        for j in jobs
    ]
    if rows:
        output.table(rows, ["job", "state", "age", "seed", "prompt"])
    elif state or any(wanted.values()):
        output.note("no job matches; see all: farm list")
    else:
        output.note('no jobs; make one: farm submit "a red star moving up"')


@click.command()
@click.argument("job_id", metavar="JOB")
@JSON
def show(job_id: str, as_json: bool) -> None:
    """Everything about JOB: settings, attempts, seconds per stage."""
    job = Client().job(job_id)
    if as_json:
        output.record(job)
        return
    output.data(f"{job['id']}  {output.state(job['state'])}")
    output.data(job["prompt"])
    output.data()
    output.data(f"model     {job['model']}")
    output.data(f"picture   {job['size']}, {job['frames']} frames at {job['fps']} a second")
    output.data(f"sampling  {job['steps']} steps, seed {job['seed']}, guidance {job['guidance']:g}")
    if job["negative_prompt"]:
        output.data(f"without   {job['negative_prompt']}")
    if job["image"]:
        output.data(f"image     {job['image']['digest']}, {job['image']['fit']}")
    output.data(f"created   {job['created_at']}")
    if job["batch"]:
        output.data(f"batch     {job['batch']}")
    for needs in job["depends_on"]:
        how = "the end" if needs["after"] == "any" else "success"
        output.data(f"after     {how} of {needs['job']} ({needs['state']})")
    if job["requires"]:
        output.data(f"requires  {_required(job['requires'])}")
    if job["expanded_prompt"]:
        output.data(f"expanded  {job['expanded_prompt']}")
    if job["artifact"]:
        output.data(f"video     {job['artifact']['bytes']} bytes, sha256 {job['artifact']['sha256']}")
    if job.get("video_removed_at"):
        output.data(f"video     removed on {job['video_removed_at'][:10]}")
    if job["error"]:
        output.data(f"error     {job['error']['code']}: {job['error']['message']}")
    output.data(f"why       {_why(job)}")
    if job["attempts"]:
        output.data()
        output.table(
            [
                [
                    str(a["epoch"]),
                    a["outcome"] or "running",
                    seconds(a["timings"]),
                    a["gpu"],
                    a["cause"] or "",
                ]
                for a in job["attempts"]
            ],
            ["attempt", "outcome", "seconds", "device", "cause"],
        )


@click.command()
@click.argument("job_id", metavar="JOB")
@JSON
def why(job_id: str, as_json: bool) -> None:
    """Why JOB is where it is, in one sentence, and what would help."""
    job = Client().job(job_id)
    if as_json:
        output.record({"id": job["id"], "state": job["state"], **job["waiting_because"]})
    else:
        output.data(_why(job))


def _verb(name: str, text: str, said: str) -> click.Command:
    @click.command(name, help=text)
    @click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
    @JSON
    def command(job_ids: tuple[str, ...], as_json: bool) -> None:
        client = Client()
        sys.exit(_each(job_ids, lambda job_id: client.act(job_id, name), said, as_json))

    return command


cancel = _verb("cancel", "Stop jobs, or take them out of the queue.", "cancelled")
hold = _verb("hold", "Keep queued jobs from starting.", "held")
release = _verb("release", "Let held jobs go.", "released")
retry = _verb("retry", "Run failed or cancelled jobs once more: same job, same seed.", "queued again")


@click.command(context_settings={"ignore_unknown_options": True})  # -5 is no option
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
@click.argument("priority", metavar="PRIORITY")
@JSON
def priority(job_ids: tuple[str, ...], priority: str, as_json: bool) -> None:
    """Let JOBs go by PRIORITY, from -100 to 100: 0 is normal, higher goes first."""
    client = Client()

    def change(job_id: str) -> Json:
        return client.request("PATCH", f"/api/jobs/{quote(job_id, safe='')}", body={"priority": priority})

    sys.exit(_each(job_ids, change, f"priority {priority}", as_json))


@click.command("open")
@click.argument("job_id", metavar="[JOB]", required=False)
@click.option("--print", "only_print", is_flag=True, help="The address alone; open nothing.")
def open_page(job_id: str | None, only_print: bool) -> None:
    """Show JOB, or the farm's page, in the browser; prints the address."""
    client = Client()
    url = f"{client.url}/" if job_id is None else f"{client.url}/jobs/{quote(client.job(job_id)['id'])}"
    output.data(url)
    if not only_print:
        import webbrowser

        if not webbrowser.open(url):
            output.note("no browser is to be found here: open the address yourself")


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option("--new-seed", is_flag=True, help="Another take instead of the same video.")
@JSON
def rerun(job_id: str, new_seed: bool, as_json: bool) -> None:
    """Render the settings of JOB again as a new job; prints its id."""
    body: dict[str, Any] = {"seed": None} if new_seed else {}
    job = Client().act(job_id, "rerun", body)
    output.record(job) if as_json else output.data(job["id"])


def seconds(timings: dict[str, float]) -> str:
    return "  ".join(f"{stage} {took:.2f}" for stage, took in timings.items()) or "-"


def _required(requires: Json) -> str:
    parts = [*requires["tags"]]
    if requires["pool"]:
        parts.append(f"pool {requires['pool']}")
    if requires["memory"]:
        parts.append(f"{requires['memory'] / 2**30:.3g} GiB of device memory")
    if requires["gpus"] > 1:
        parts.append(f"{requires['gpus']} GPUs")
    return ", ".join(parts)


def _each(job_ids: tuple[str, ...], change: Callable[[str], Json], said: str, as_json: bool) -> Exit:
    worst = Exit.OK
    for job_id in job_ids:
        try:
            _report(change(job_id), said, as_json)
        except Refused as error:  # the others are still changed
            output.fault(error)
            worst = max(worst, error.exit)
    return worst


def _report(job: Json, said: str, as_json: bool) -> None:
    if as_json:
        output.record(job)
        return
    output.data(job["id"])
    output.note("stopping at its next step" if job["cancel_requested"] else said)


def _why(job: Json) -> str:
    because = job["waiting_because"]
    return f"{output.said(because['sentence'])} {output.said(because['help'])}".strip()
