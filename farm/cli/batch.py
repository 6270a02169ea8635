"""`farm batch submit`: a file of prompts, a job a line; the same file again adds nothing."""

import json
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import click

from farm.cli import output
from farm.cli.client import Client, Json, Refused
from farm.cli.images import Uploads, image_options
from farm.cli.submit import read_text
from farm.domain.errors import FarmError, InvalidRequest


@click.group()
def batch() -> None:
    """Many prompts at once."""


@batch.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="Default: the file's name.")
@click.option("--model", help="Default: the farm's.")
@click.option("--size")
@click.option("--frames")
@click.option("--seconds")
@click.option("--steps")
@click.option("--guidance")
@click.option("--negative-prompt", help="What should not be seen; for undistilled models.")
@image_options
@click.option("--priority", help="Higher goes first; 0 is normal.")
@click.option("--hold", is_flag=True, help="Do not start until released.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def submit(
    file: Path, name: str | None, image: str | None, hold: bool, as_json: bool, **options: str | None
) -> None:
    """One job for every line of FILE (UTF-8, empty lines skipped); all lines must be valid.

    A line is a prompt. In a .jsonl file it is an object of fields, such as
    {"prompt": "...", "image": "frames/12.png", "seed": 7}; images lie relative to FILE.
    "depends_on": ["row:1"] waits for the first prompt of FILE, an id for any other job.
    """
    lines = [(n, line.strip()) for n, line in enumerate(_lines(file), start=1) if line.strip()]
    if not lines:
        raise InvalidRequest(f"{file} has no prompts", "write one prompt a line", "file")
    client = Client()
    uploads = Uploads(client)
    shared: Json = {key: value for key, value in options.items() if value is not None}
    if hold:
        shared["hold"] = True
    if image is not None:
        shared["image"] = uploads.digest(image)
    rows: list[Json] = [{**shared, **_row(file, number, line)} for number, line in lines]
    for (number, _), row in zip(lines, rows, strict=True):
        if isinstance(row.get("image"), str) and row["image"] != shared.get("image"):
            row["image"] = _upload(uploads, row["image"], file, number)
    try:
        done = client.post("/api/batches", {"name": name or file.stem, "rows": rows})
    except Refused as error:
        for row in error.rows:
            row["line"] = lines[row["row"] - 1][0]
        raise
    if as_json:
        output.record(done)
        return
    for job_id in done["jobs"]:
        output.data(job_id)
    output.note(_summary(done))


@batch.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def status(name: str, as_json: bool) -> None:
    """How far the batch NAME is."""
    found = Client().get(f"/api/batches/{quote(name, safe='')}")
    if as_json:
        output.record(found)
        return
    counts = ", ".join(f"{n} {state}" for state, n in found["counts"].items() if n)
    output.data(f"{found['name']}  {found['state']}  {counts}")


def _lines(path: Path) -> list[str]:
    # Not splitlines(): it also splits at characters that editors do not count as line ends.
    return read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _row(file: Path, number: int, line: str) -> Json:
    if file.suffix.lower() not in {".jsonl", ".ndjson"}:
        return {"prompt": line}
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise InvalidRequest(
            f"{file}, line {number} is not JSON: {error}", 'like {"prompt": "..."}', "file"
        ) from None
    if not isinstance(row, dict):
        raise InvalidRequest(f"{file}, line {number} is not an object", 'like {"prompt": "..."}', "file")
    return cast(Json, row)


def _upload(uploads: Uploads, image: str, file: Path, number: int) -> str:
    try:
        return uploads.digest(image, beside=file.parent)
    except FarmError as error:
        error.message = f"{file}, line {number}: {error.message}"
        raise


def _summary(done: Json) -> str:
    created, existing = done["created"], done["existing"]
    if not created:
        return f"nothing to add: batch {done['name']} has all {existing} jobs already"
    known = f", {existing} were there already" if existing else ""
    return f"{created} jobs added to batch {done['name']}{known}: farm batch status {done['name']}"
