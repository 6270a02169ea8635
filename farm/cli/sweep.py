"""`farm sweep`: frees, by hand, what the farm frees by itself once an hour. For the machine of the server."""

from pathlib import Path

import click

from farm.cli import output
from farm.cli.farm import HOME, server_settings

_WORDS = {
    "losers": "files of attempts that did not win",
    "previews": "previews of finished jobs",
    "hidden": "videos of deleted jobs",
    "removed": "videos that were pruned",
    "images": "images that no job refers to",
    "unfinished": "uploads that were never finished",
}


@click.command()
@HOME
@click.option("--dry-run", is_flag=True, help="Say what would go; delete nothing.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def sweep(home: Path | None, dry_run: bool, as_json: bool) -> None:
    """Free what nobody can see any more in the store: a farm does so by itself once an hour."""
    settings = server_settings(home=home)
    from farm.cluster.sweeper import sweep_store
    from farm.db.engine import open_database

    db = open_database(settings.database_url)
    try:
        swept = sweep_store(settings, db, dry_run)
    finally:
        db.close()
    heaps = {**swept.freed, "unknown": swept.unknown}
    if as_json:
        kinds = {k: {"objects": h.objects, "bytes": h.bytes, "examples": h.examples} for k, h in heaps.items()}
        output.record({"dry_run": dry_run, "objects": swept.objects, "bytes": swept.bytes, **kinds})
        return
    for kind, heap in swept.freed.items():
        if heap.objects:
            output.data(f"{heap.objects:6}  {output.size(heap.bytes):>8}  {_WORDS[kind]}")
    done = "would be freed" if dry_run else "freed"
    objects = "1 object" if swept.objects == 1 else f"{swept.objects} objects"
    output.data(f"{output.size(swept.bytes)} {done}, {objects}" if swept.objects else "nothing to free")
    if swept.unknown.objects:
        output.note(
            f"left alone: {swept.unknown.objects} objects, {output.size(swept.unknown.bytes)}, of jobs that this "
            f"database does not know, such as {swept.unknown.examples[0]}"
        )
