"""`farm submit`: one prompt becomes one durable job (or --count of them)."""

import sys
from pathlib import Path

import click

from farm.cli import output
from farm.cli.client import Client, Json
from farm.cli.images import Uploads, image_options
from farm.cli.moments import moment
from farm.domain.errors import Exit, InvalidRequest


@click.command()
@click.argument("prompt", required=False)
@click.option("--file", type=click.Path(path_type=Path), help="Read the prompt from a UTF-8 file.")
@click.option("--model", help="Default: the farm's.")
@click.option(
    "--like", type=click.Path(path_type=Path), metavar="FILE", help="Settings of a video; other options go before."
)
@click.option("--continue", "before", metavar="JOB", help="Begin with the last frame of JOB's video.")
@click.option("--size", help="Like 832x480.")
@click.option("--aspect", help="Instead of --size: 16:9, 9:16, 1:1 ... with the model's usual number of pixels.")
@click.option(
    "--adaptive-size", is_flag=True, help="The size follows the image's shape; so it does without --size."
)
@click.option("--frames", help="4k + 1, like 81.")
@click.option("--seconds", help="Instead of --frames.")
@click.option("--steps", help="Denoise steps.")
@click.option("--seed", help="Default: random, and printed.")
@click.option("--quality", help="fast or best: how much sparse attention looks at.")
@click.option("--expand", is_flag=True, help="Let the farm's expander make the prompt longer; both are kept.")
@click.option("--ode", is_flag=True, help="No fresh noise between a distilled model's steps: sharper, less varied.")
@click.option("--guidance", help="How strongly the prompt pulls; not for distilled models.")
@click.option("--negative-prompt", help="What should not be seen; for undistilled models.")
@image_options
@click.option("--count", type=click.IntRange(1, 1000), default=1, help="Copies with consecutive seeds.")
@click.option("--priority", help="Higher goes first; 0 is normal.")
@click.option("--not-before", metavar="TIME", help="Like 22:00, 90m, 2026-01-31T22:00 (here) or with a time zone.")
@click.option("--project", help="Default: default.")
@click.option("--tag", "labels", multiple=True, metavar="KEY=VALUE", help="To find it by; repeatable.")
@click.option("--hold", is_flag=True, help="Do not start until `farm release`.")
@click.option("--after", multiple=True, metavar="JOB|BATCH", help="Start once it has succeeded; repeatable.")
@click.option(
    "--after-any", multiple=True, metavar="JOB|BATCH", help="Start once it has ended, however; repeatable."
)
@click.option("--on", "tags", multiple=True, metavar="TAG", help="Only on workers with this tag; repeatable.")
@click.option("--pool", help="Only on workers of this pool.")
@click.option("--memory", help="Only on devices with so much, like 40GB.")
@click.option("--idempotency-key", help="The same key never makes a second job.")
@click.option("--dry-run", is_flag=True, help="Say what would be rendered; submit nothing.")
@click.option("--wait", is_flag=True, help="Follow it to its end; the exit code tells how it ended.")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="Save the video here (waits).")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def submit(
    prompt: str | None,
    file: Path | None,
    like: Path | None,
    before: str | None,
    adaptive_size: bool,
    image: str | None,
    expand: bool,
    ode: bool,
    count: int,
    not_before: str | None,
    labels: tuple[str, ...],
    hold: bool,
    after: tuple[str, ...],
    after_any: tuple[str, ...],
    tags: tuple[str, ...],
    pool: str | None,
    memory: str | None,
    idempotency_key: str | None,
    dry_run: bool,
    wait: bool,
    target: Path | None,
    as_json: bool,
    **options: str | None,
) -> None:
    """Render PROMPT ('-' reads it from stdin). Prints the job's id once the job is durable."""
    if target is not None and count > 1:
        raise InvalidRequest("-o saves one video, --count makes several", "use `farm download` for each")
    if dry_run and (wait or target):
        raise InvalidRequest("--dry-run renders nothing to wait for", "leave out --wait and -o")
    wish: Json = {name: value for name, value in options.items() if value is not None}
    if ode:
        wish["ode"] = True
    if expand:
        wish["expand"] = True
    if hold:
        wish["hold"] = True
    if before is not None:
        wish["continue"] = before
    if not_before is not None:
        wish["not_before"] = moment(not_before)
    if labels:
        wish["tags"] = dict(map(_label, labels))
    if tags or pool or memory:
        has = {"tags": list(tags), "pool": pool, "memory": memory}
        wish["requires"] = {name: value for name, value in has.items() if value}
    if image is not None:
        wish["image"] = image
    kept = settings_of(like, wish) if like is not None else {}
    if prompt is not None or file is not None or "prompt" not in kept:
        wish["prompt"] = _prompt(prompt, file)
    wish = {**kept, **wish}
    if adaptive_size:
        _follow_image(wish)
    client = Client()
    if after or after_any:
        wish["depends_on"] = [
            *_jobs_of(client, after),
            *({"job": j, "after": "any"} for j in _jobs_of(client, after_any)),
        ]
    if image is not None:
        wish["image"] = Uploads(client).digest(image)
    if dry_run:
        _rehearse(client, wish, count, as_json)
        return
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


def settings_of(file: Path, given: Json) -> Json:
    """What a video says about how it was made, less what `given` decides otherwise."""
    from farm.cli.inspect import provenance_of

    told = provenance_of(file)
    kept = dict(told.wish)
    if given.get("model") not in {None, kept.get("model")}:
        # Steps, sizes and the rest are one model's own; what is to be seen is not.
        kept = {name: kept[name] for name in ("prompt", "seed", "image", "fit") if name in kept}
    if "seconds" in given:
        kept.pop("frames", None)
    if any(name in given for name in ("aspect", "image", "continue")):
        kept.pop("size", None)
    if any(name in given for name in ("image", "continue")):
        kept.pop("image", None)
        kept.pop("fit", None)
    return kept


def _follow_image(wish: Json) -> None:
    if wish.get("image") is None and wish.get("continue") is None:
        raise InvalidRequest(
            "--adaptive-size follows an image, and there is none", "add --image, or use --aspect", "size"
        )
    if "aspect" in wish:
        raise InvalidRequest("give --adaptive-size or --aspect, not both", "leave one of them out", "size")
    wish.pop("size", None)


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InvalidRequest(f"a tag is KEY=VALUE, not {text!r}", "like --tag shot=12a", "tags")
    return key.strip(), value.strip()


def _jobs_of(client: Client, names: tuple[str, ...]) -> list[str]:
    """Ids as they are; a batch as all of its jobs."""
    found: list[str] = []
    for name in names:
        of_batch = [] if name.startswith("job_") else [str(job["id"]) for job in client.jobs(batch=name)]
        found += of_batch or [name]
    return found


def _rehearse(client: Client, wish: Json, count: int, as_json: bool) -> None:
    first = client.post("/api/jobs?dry_run=true", wish)
    for number in range(count):
        plan = {**first, "seed": (first["seed"] + number) % 2**32}
        if as_json:
            output.record(plan)
        else:
            sampling = f"{plan['steps']} steps, seed {plan['seed']}"
            output.data(f"{plan['model']}  {plan['size']}  {plan['seconds']:g} s  {sampling}  {plan['prompt']}")
    if not as_json:
        if first["hint"]:
            output.note(first["hint"])
        output.note(
            f"nothing was submitted; without --dry-run {'it is 1 job' if count == 1 else f'these are {count} jobs'}"
        )


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
        return _decoded(sys.stdin.buffer.read()).strip()
    if prompt is None:
        raise InvalidRequest("a prompt is needed", 'farm submit "a red star moving up"', "prompt")
    return prompt


def _decoded(data: bytes) -> str:
    """UTF-8, or what the console speaks; without a console's word for it, the code page of Chinese Windows."""
    for encoding in ("utf-8-sig", sys.stdin.encoding or "utf-8", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise InvalidRequest("the prompt on stdin is not UTF-8", "save it as UTF-8", "prompt")


def read_text(path: Path) -> str:
    """A UTF-8 file with or without BOM. Raises InvalidRequest saying what is wrong with it."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}", "check the path", "file") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InvalidRequest(f"{path} is not UTF-8 (line {line})", "save it as UTF-8", "file") from None
