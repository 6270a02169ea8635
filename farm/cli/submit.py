"""`farm submit`: one prompt becomes one durable job (or --count of them)."""

import sys
from pathlib import Path

import click

from farm.cli import output
from farm.cli.client import Client, Json
from farm.cli.images import Uploads, image_options
from farm.domain.errors import Exit, InvalidRequest


@click.command()
@click.argument("prompt", required=False)
@click.option("--file", type=click.Path(path_type=Path), help="Read the prompt from a UTF-8 file.")
@click.option("--model", help="Default: the farm's.")
@click.option("--size", help="Like 832x480.")
@click.option("--frames", help="4k + 1, like 81.")
@click.option("--seconds", help="Instead of --frames.")
@click.option("--steps", help="Denoise steps.")
@click.option("--seed", help="Default: random, and printed.")
@click.option("--guidance", help="How strongly the prompt pulls; not for distilled models.")
@click.option("--negative-prompt", help="What should not be seen; for undistilled models.")
@image_options
@click.option("--count", type=click.IntRange(1, 1000), default=1, help="Copies with consecutive seeds.")
@click.option("--priority", help="Higher goes first; 0 is normal.")
@click.option("--hold", is_flag=True, help="Do not start until `farm release`.")
@click.option("--after", multiple=True, metavar="JOB", help="Start once JOB has succeeded; repeatable.")
@click.option("--after-any", multiple=True, metavar="JOB", help="Start once JOB has ended, however; repeatable.")
@click.option("--on", "tags", multiple=True, metavar="TAG", help="Only on workers with this tag; repeatable.")
@click.option("--pool", help="Only on workers of this pool.")
@click.option("--memory", help="Only on devices with so much, like 40GB.")
@click.option("--idempotency-key", help="The same key never makes a second job.")
@click.option("--wait", is_flag=True, help="Follow it to its end; the exit code tells how it ended.")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="Save the video here (waits).")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def submit(
    prompt: str | None,
    file: Path | None,
    image: str | None,
    count: int,
    hold: bool,
    after: tuple[str, ...],
    after_any: tuple[str, ...],
    tags: tuple[str, ...],
    pool: str | None,
    memory: str | None,
    idempotency_key: str | None,
    wait: bool,
    target: Path | None,
    as_json: bool,
    **options: str | None,
) -> None:
    """Render PROMPT ('-' reads it from stdin). Prints the job's id once the job is durable."""
    if target is not None and count > 1:
        raise InvalidRequest("-o saves one video, --count makes several", "use `farm download` for each")
    wish: Json = {name: value for name, value in options.items() if value is not None}
    wish["prompt"] = _prompt(prompt, file)
    if hold:
        wish["hold"] = True
    if after or after_any:
        wish["depends_on"] = [*after, *({"job": job, "after": "any"} for job in after_any)]
    if tags or pool or memory:
        has = {"tags": list(tags), "pool": pool, "memory": memory}
        wish["requires"] = {name: value for name, value in has.items() if value}
    client = Client()
    if image is not None:
        wish["image"] = Uploads(client).digest(image)
    jobs: list[Json] = []
    for number in range(count):
        if jobs:
            wish["seed"] = (jobs[0]["seed"] + number) % 2**32
        job = _post(client, wish, idempotency_key, number)
        jobs.append(job)
        if not (wait or target):
            output.record(job) if as_json else output.data(job["id"])
        if not as_json:
            if number == 0 and job.get("hint"):
                output.note(job["hint"])
            output.note(f"seed {job['seed']}" + (", held: farm release " + job["id"] if hold else ""))
    if wait or target:
        from farm.cli.watch import end_of, follow

        worst = Exit.OK
        for job in jobs:
            done = follow(client, job["id"], started_here=True)
            if target is not None and done["state"] == "succeeded":
                from farm.cli.download import save

                output.note(f"saved {save(client, done, target)}")
            output.record(done) if as_json else output.data(done["id"])
            worst = max(worst, end_of(done))
        sys.exit(worst)


def _post(client: Client, wish: Json, key: str | None, number: int) -> Json:
    # One key names the whole command: copies get their own, derived from it.
    name = key if number == 0 or key is None else f"{key}#{number}"
    return client.post("/api/jobs", wish, {"Idempotency-Key": _header(name)} if name is not None else None)


def _header(key: str) -> str:
    if not key.isascii() or not key.isprintable() or not key:
        raise InvalidRequest(
            "an idempotency key must be printable ASCII", "use letters and digits", "idempotency_key"
        )
    return key


def _prompt(prompt: str | None, file: Path | None) -> str:
    if prompt is not None and file is not None:
        raise InvalidRequest("give a prompt or --file, not both", "leave one of them out", "prompt")
    if file is not None:
        return read_text(file).strip()
    if prompt == "-":
        return sys.stdin.buffer.read().decode("utf-8-sig", "replace").strip()
    if prompt is None:
        raise InvalidRequest("a prompt is needed", 'farm submit "a red star moving up"', "prompt")
    return prompt


def read_text(path: Path) -> str:
    """A UTF-8 file with or without BOM. Raises InvalidRequest saying what is wrong with it."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}", "check the path", "file") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InvalidRequest(f"{path} is not UTF-8 (line {line})", "save it as UTF-8", "file") from None
