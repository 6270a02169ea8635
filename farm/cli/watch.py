"""`farm watch`: one job live, from the event stream, or by polling where the stream does not come through."""

import sys
import time
from collections.abc import Callable, Iterator

import click

from farm.cli import output
from farm.cli.client import Client, Json, Refused, StreamEvent
from farm.cli.config import colour
from farm.domain.errors import Exit, FarmUnreachable

FINAL = {"succeeded": Exit.OK, "failed": Exit.FAILED, "cancelled": Exit.CANCELLED}
POLL = 0.5
BAR = 28


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option("--json", "as_json", is_flag=True, help="Every change as one JSON line.")
def watch(job_id: str, as_json: bool) -> None:
    """Follow JOB until it is done; exits 0 succeeded, 1 failed, 3 cancelled."""
    client = Client()
    done = follow(client, job_id, on_change=output.record if as_json else None)
    if not as_json:
        output.data(done["id"])
    sys.exit(end_of(done))


def end_of(job: Json) -> Exit:
    return FINAL[job["state"]]


def follow(
    client: Client,
    job_id: str,
    *,
    on_change: Callable[[Json], None] | None = None,
    started_here: bool = False,
) -> Json:
    """Shows the job's progress on stderr until it is final; returns it. Ctrl-C leaves the job running."""
    line = _Line()
    try:
        for job in changes(client, job_id):
            if on_change is not None:
                on_change(job)
            else:
                line.show(job)
            if job["state"] in FINAL:
                line.end(job)
                return job
    except KeyboardInterrupt:
        line.clear()
        what = "is still rendering" if not started_here else "was submitted and goes on without you"
        output.note(f"the job {what}; come back with: farm watch {job_id}")
        sys.exit(130)
    raise FarmUnreachable("the event stream ended", "try again")


def changes(client: Client, job_id: str) -> Iterator[Json]:
    """The job each time something about it changed, at least once; `job["live"]` is its newest progress."""
    job = _first(client, job_id)
    job_id = job["id"]  # a prefix may have been given
    yield job
    if job["state"] in FINAL:
        return
    away = _Away()
    for event in _stream_or_poll(client):
        if event is not None and event.kind in {"away", "health", "open"}:
            if not away.heard(event.data.get("says") or ""):
                continue
            event = None  # it is back: what happened meanwhile?
        if event is None or event.kind == "reset":
            # A sign of life, or a gap in what was told: ask. It is also how a missed message heals.
            fresh = _ask(client, job_id)
            if fresh is None or fresh == job:
                continue
            job = fresh
        elif event.kind == "poll":
            job = _ask(client, job_id, patient=False) or job
        elif event.data.get("id") != job_id:
            continue
        elif event.kind == "progress":
            job = {**job, "state": "running", "live": event.data}
        elif event.kind == "job":
            # What was live belongs to the state before: the next attempt begins at its own first step.
            told = event.data.get("job", {"state": event.data.get("state", job["state"])})
            job = {**job, "live": None, **told}
            if job["state"] in FINAL:
                job = _ask(client, job_id) or job  # with attempts and seconds
        else:
            continue
        yield job
        if job["state"] in FINAL:
            return


class _Away:
    """Says once that something the farm stands on is away, and once that it is back."""

    def __init__(self) -> None:
        self._told = False

    def heard(self, says: str) -> bool:
        """Whether it has just come back."""
        back = self._told and not says
        if says and not self._told:
            output.note(f"{says.rstrip('.')}. Watching on.")
        elif back:
            output.note("it is back")
        self._told = bool(says)
        return back


def _first(client: Client, job_id: str) -> Json:
    """The job, also where it cannot be asked for just now: then later."""
    away = _Away()
    while True:
        try:
            job = client.job(job_id)
        except Refused as error:
            if not error.temporary:
                raise
            away.heard(error.message)
            time.sleep(POLL)
        else:
            away.heard("")
            return job


def _ask(client: Client, job_id: str, patient: bool = True) -> Json | None:
    """The job now; None while the farm restarts or its database is away: the stream tells when it is back.

    patient: the stream tells, too, when to give up on a farm that does not answer; otherwise that is said here.
    """
    try:
        return client.job(job_id)
    except Refused as error:
        if not error.temporary:
            raise
        return None
    except FarmUnreachable:
        if not patient:
            raise
        return None


def _stream_or_poll(client: Client) -> Iterator[StreamEvent | None]:
    try:
        yield from client.events()
    except FarmUnreachable:
        while True:  # a proxy that swallows streams: plain requests still tell the truth, or fail clearly
            yield StreamEvent("poll", {}, None)
            time.sleep(POLL)


class _Line:
    """A line that is redrawn on a terminal; on a pipe one line per stage."""

    def __init__(self) -> None:
        self._live = colour(sys.stderr)
        self._said = ""

    def show(self, job: Json) -> None:
        if self._live:
            output.note_inline(_drawn(job))
        elif (said := _stage(job)) != self._said:
            self._said = said
            output.note(said)

    def clear(self) -> None:
        if self._live:
            output.note_inline("")

    def end(self, job: Json) -> None:
        self.clear()
        output.note(_verdict(job))


def _stage(job: Json) -> str:
    """queued | running: denoise ..., in the words of the protocol."""
    if job["state"] != "running":
        return f"{job['state']} (attempt {job['epoch']})" if job["epoch"] > 1 else job["state"]
    at: Json = job.get("live") or job.get("progress") or {"stage": "starting"}
    attempt = f" (attempt {job['epoch']})" if job["epoch"] > 1 else ""
    return f"{at['stage']}{attempt}"


def _drawn(job: Json) -> str:
    at: Json = job.get("live") or job.get("progress") or {}
    percent = at.get("percent", job.get("percent") or 0) if job["state"] == "running" else 0
    full = round(BAR * percent / 100)
    bar = f"\x1b[36m{'━' * full}\x1b[0m\x1b[2m{'─' * (BAR - full)}\x1b[0m"
    steps = f" {at['k']}/{at['n']}" if at.get("n") else ""
    eta = f"  {at['eta']:.0f} s left" if at.get("eta") else ""
    return f"{bar} {percent:3d} %  {_stage(job)}{steps}{eta}"


def _verdict(job: Json) -> str:
    timings: dict[str, float] = job.get("timings") or {}
    took = sum(timings.values())
    if job["state"] == "succeeded":
        attempts = f", attempt {job['epoch']}" if job["epoch"] > 1 else ""
        return f"succeeded in {took:.1f} s{attempts}: farm download {job['id']}"
    if job["state"] == "failed" and job["error"]:
        return f"failed: {job['error']['code']}: {job['error']['message']}\n{job['error']['next']}".rstrip()
    return f"{job['state']}: farm retry {job['id']}"
