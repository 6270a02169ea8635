"""`farm download`: a job's video on this disk, whole or not at all."""

import os
import tempfile
from pathlib import Path
from urllib.parse import quote

import click

from farm.cli import output
from farm.cli.client import Client, Json
from farm.domain.errors import DiskFull, FolderUnusable


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="File or folder; default: here.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def download(job_id: str, target: Path | None, as_json: bool) -> None:
    """Save the video of JOB; prints the path."""
    client = Client()
    job = client.job(job_id)
    path = save(client, job, target or Path("."))
    if as_json:
        output.record({"id": job["id"], "path": str(path), "bytes": path.stat().st_size})
    else:
        output.data(str(path))


def save(client: Client, job: Json, target: Path) -> Path:
    """Writes beside the target first, so that a file with its name is always complete."""
    path = target / f"{job['id']}.mp4" if target.is_dir() else target
    try:
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise FolderUnusable(
            f"{path.parent} cannot be written: {error.strerror}", "choose another with -o"
        ) from None
    try:
        with os.fdopen(handle, "wb") as file:
            client.save(f"/api/jobs/{quote(job['id'])}/content", file)
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except OSError as error:
        raise DiskFull(f"{path} cannot be written: {error.strerror}", "free some space, or choose -o") from None
    finally:
        Path(scratch).unlink(missing_ok=True)
    return path
