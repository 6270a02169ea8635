"""`farm prune`: finished jobs make room, after a look at what would go."""

import sys

import click

from farm.cli import output
from farm.cli.client import Client, Json
from farm.cli.moments import duration
from farm.domain.errors import InvalidRequest

_PATIENCE = 300.0  # seconds: one request removes up to some hundred videos from a bucket


@click.command()
@click.option("--older-than", metavar="AGE", help="Ended so long ago: 30d, 12h.")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(["succeeded", "failed", "cancelled"]),
    help="May be repeated. Default: failed and cancelled; succeeded must be named.",
)  # fmt: skip
@click.option("--project")
@click.option("--batch")
@click.option("--owner", help="For operators; others prune jobs of their own.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="May be repeated; all must fit.")
@click.option("--keep-rows", is_flag=True, help="Remove videos only: the jobs stay listed and say so.")
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def prune(
    older_than: str | None,
    states: tuple[str, ...],
    project: str | None,
    batch: str | None,
    owner: str | None,
    tags: tuple[str, ...],
    keep_rows: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove finished jobs with their videos and all that lies beside them. At least one filter is needed.

    Without --yes it says what would go, and removes nothing unless a terminal confirms. Jobs that others still wait
    for stay, and so do images that other jobs use.
    """
    asked: Json = {
        "older_than": None if older_than is None else duration(older_than, "older_than"),
        "states": list(states), "project": project, "batch": batch, "owner": owner, "tags": _tags(tags),
        "keep_rows": keep_rows,
    }  # fmt: skip
    asked = {name: value for name, value in asked.items() if value is not None}
    client = Client(timeout=_PATIENCE)
    found = client.post("/api/prune", {**asked, "dry_run": True})
    said = _what(found, keep_rows)
    _say_what_stays(found)
    if dry_run or not found["jobs"] or not (yes or _confirmed(said)):
        if as_json:
            output.record(found)
        elif not found["jobs"]:
            output.note("nothing fits: nothing to remove")
        else:
            output.data(f"would remove {said}")
        if found["jobs"] and not dry_run:
            output.note("nothing was removed; --yes removes it")
        return
    done = _remove(client, {**asked, "dry_run": False, "as_of": found["as_of"]})
    if as_json:
        output.record(done)
    else:
        output.data(f"removed {_what(done, keep_rows)}")


def _remove(client: Client, asked: Json) -> Json:
    """Some hundred at a time, summed up. What ended after the look stays."""
    total: Json = {}
    while True:
        done = client.post("/api/prune", asked)
        if total:
            done["jobs"] += total["jobs"]
            done["bytes"] += total["bytes"]
            for name, choose in (("oldest", min), ("newest", max)):
                done[name] = choose((t for t in (total[name], done[name]) if t is not None), default=None)
        if not done["more"]:
            return done
        total = done
        if sys.stderr.isatty():
            output.note_inline(f"{total['jobs']} removed, {output.size(total['bytes'])}")


def _what(found: Json, keep_rows: bool) -> str:
    count = found["jobs"]
    if keep_rows:
        things = "the video of 1 job" if count == 1 else f"the videos of {count} jobs"
    else:
        things = "1 job" if count == 1 else f"{count} jobs"
    span = f", ended {found['oldest'][:10]} to {found['newest'][:10]}" if count else ""
    return f"{things}, {output.size(found['bytes'])}{span}"


def _say_what_stays(found: Json) -> None:
    if found["waited_for"]:
        output.note(f"stay, because unfinished jobs wait for them: {found['waited_for']}")
    if found["images_kept"]:
        output.note(f"images that stay, because other jobs use them: {found['images_kept']}")


def _confirmed(said: str) -> bool:
    return sys.stdin.isatty() and click.confirm(f"remove {said}?", err=True)


def _tags(pairs: tuple[str, ...]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for pair in pairs:
        key, between, value = pair.partition("=")
        if not between:
            raise InvalidRequest(f"a tag is KEY=VALUE, not {pair!r}", "like --tag shot=12a", "tag")
        tags[key] = value
    return tags
