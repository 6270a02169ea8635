"""`farm models`: the model library of this machine: what is there, bring models in, check them, take them out."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from farm.cli import output
from farm.cli.client import Client, Json
from farm.cli.farm import HOME, server_settings
from farm.cli.plan import plan
from farm.cli.transfer import Transfer, size
from farm.domain.errors import Exit, FarmError, InvalidRequest

JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable.")


@click.group()
def models() -> None:
    """The model library of this machine (FARM_MODELS, or models/ in the farm's folder)."""


models.add_command(plan)


@models.command("list")
@HOME
@JSON
def list_models(home: Path | None, as_json: bool) -> None:
    """Every model there is: here or to be had, its size and licence, and how many workers have it."""
    settings = server_settings(home=home)
    from farm.models.listing import listing
    from farm.models.registry import registry

    rows = listing(settings.models, registry(), _told_by_farm(settings))
    if as_json:
        output.records([dataclasses.asdict(row) for row in rows])
        return
    output.table(
        [
            [
                row.name,
                row.task,
                row.state,
                _size(row),
                "-" if row.workers is None else str(row.workers),
                row.licence,
                row.source,
            ]
            for row in rows
        ],
        ["model", "task", "here", "size", "workers", "licence", "from"],
    )
    output.note(f"library: {settings.models}")


@models.command()
@click.argument("name")
@click.option(
    "--from", "where", default="huggingface", show_default=True, help="huggingface, modelscope or a folder."
)
@click.option("--variant", default="plain", show_default=True, help="plain, or int8 where it is published.")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched.")
@HOME
@JSON
def pull(name: str, where: str, variant: str, dry_run: bool, home: Path | None, as_json: bool) -> None:
    """Fetch the model NAME and its parts; go on where an earlier pull stopped. Prints the components made."""
    settings = server_settings(home=home)
    from farm.models import pull as pulling
    from farm.models.hub import open_hub
    from farm.models.registry import registry
    from model.library import Library

    library = Library(settings.models)
    preset = _preset(library, name)
    hub = open_hub(where)
    plan = pulling.plan(library, registry(), preset, hub, variant)
    for part in plan.there:
        output.note(f"{part} is here already")
    if not plan.wanted:
        output.note(f"{name} is complete: nothing to fetch")
        _register(settings)
        return
    for wanted in plan.wanted:
        output.note(
            f"{wanted.part.name}: {size(wanted.listing.bytes)} from {wanted.listing.name}, {wanted.part.licence}"
        )
    if dry_run:
        return
    with Transfer() as transfer:
        try:
            made = pulling.pull(library, plan, hub, transfer.say)
        except KeyboardInterrupt:
            transfer.end()
            output.note("stopped; what has arrived is kept: run the same command again to go on")
            sys.exit(130)
    _register(settings)
    _say_made(made, as_json)


@models.command("import")
@click.argument("name")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--like", help="The preset that NAME is a variant of, such as a fine-tune of your own.")
@click.option("--transformer", type=click.Path(path_type=Path), help="Its checkpoint (of two experts: high noise).")
@click.option("--low", type=click.Path(path_type=Path), help="The checkpoint of the low-noise expert.")
@click.option("--vae", type=click.Path(path_type=Path))
@click.option("--text-encoder", type=click.Path(path_type=Path))
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Folder with spiece.model or tokenizer.json.")
@HOME
@JSON
def import_model(
    name: str, paths: tuple[Path, ...], like: str | None, home: Path | None, as_json: bool, **named: Path | None
) -> None:
    """Bring files that are here into the library as NAME: published .pth files, or folders as Wan or diffusers
    publish them. Every tensor is checked; the files themselves are left alone."""
    settings = server_settings(home=home)
    from farm.models.bring_in import Files, bring_in, given_parts, sort_out
    from farm.models.lock import library_lock
    from farm.models.registry import Part, registry
    from model.library import Kind, Library

    library = Library(settings.models)
    preset = _preset(library, like or name)
    if like is not None:
        preset = dataclasses.replace(preset, name=_new_name(name, library), weights=None)
    parts = given_parts(library, preset, sort_out(registry(), preset, paths, Files(**named)))
    kinds: dict[str, Kind] = {preset.vae_part: "vae", preset.text_part: "text_encoder"}
    made: list[Any] = []
    with library_lock(settings.models, f"import {name}"), Transfer() as transfer:
        for part, given in parts:
            source = ", ".join(str(path) for path in vars(given).values() if path is not None)
            as_part = Part(part, kinds.get(part, "transformer"), "", ())
            made.append(bring_in(library, preset, as_part, given, f"files: {source}", transfer.say))
    _register(settings)
    for part in library.missing(preset):
        output.note(f"{part} is still missing: farm models pull {name}")
    _say_made(made, as_json)


@models.command()
@click.argument("name")
@click.option("--render", is_flag=True, help="Also render a known prompt and look at the video.")
@click.option("--device", help="Where to render: cuda, cuda:1 or cpu; default: a GPU if there is one.")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="Keep the rendered video here.")
@HOME
@JSON
def verify(
    name: str, render: bool, device: str | None, target: Path | None, home: Path | None, as_json: bool
) -> None:
    """Read every file of NAME against its manifest. Exits 1 if one is damaged."""
    settings = server_settings(home=home)
    from farm.models import verify as verifying
    from farm.models.on_disk import size_of
    from model.library import Library

    library = Library(settings.models)
    preset = _installed(library, name)
    with Transfer() as transfer:
        damages = verifying.rehash(library, preset, transfer.say)
    said: Json = {
        "name": name,
        "bytes": size_of(library, preset),
        "damaged": [dataclasses.asdict(d) for d in damages],
    }
    for damage in damages:
        output.note(f"damaged: {damage.component}/{damage.file}: expected {damage.expected}, found {damage.found}")
    if damages:
        if as_json:
            output.record(said)
        raise verifying.VerifyFailed(
            f"{len(damages)} of its files are damaged", f"farm models remove {name}, then pull or import it again"
        )
    said["digest"] = library.digest(preset)
    if render:
        from farm.models.devices import best_device, pipeline_class

        device = device or best_device()
        done = verifying.render(pipeline_class(settings.pipeline), library, preset, device, target)
        said["render"] = {
            "device": device, "size": f"{done.spec.width}x{done.spec.height}", "frames": done.spec.frames,
            "steps": done.spec.steps, "seed": done.spec.seed, "prompt": done.spec.prompt,
            "seconds": {stage: round(took, 3) for stage, took in done.seconds.items()},
            "frames_sha256": done.digest,
        }  # fmt: skip
    if as_json:
        output.record(said)
        return
    output.data(f"{name}  {size(said['bytes'])}, every file as imported, digest {said['digest']}")
    if render:
        shown: Json = said["render"]
        output.data(
            f"rendered on {shown['device']}: {shown['size']}, {shown['frames']} frames, {shown['steps']} steps, "
            f"seed {shown['seed']}; the video is whole"
        )
        output.data("seconds  " + "  ".join(f"{stage} {took:.2f}" for stage, took in shown["seconds"].items()))
        output.data(f"frames   sha256 {shown['frames_sha256']}")


@models.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@HOME
@JSON
def remove(name: str, yes: bool, home: Path | None, as_json: bool) -> None:
    """Take the model NAME, and the parts that only it needs, off this disk."""
    settings = server_settings(home=home)
    from farm.models import remove as removing
    from model.library import Library

    library = Library(settings.models)
    plan = removing.plan_removal(library, name)
    for part, others in plan.kept:
        output.note(f"{part} stays: {', '.join(others)} needs it")
    if not yes:
        if not sys.stdin.isatty():
            raise InvalidRequest("removing needs a yes", f"farm models remove {name} --yes", "yes")
        click.confirm(f"remove {', '.join(plan.removed)} ({size(plan.bytes)})?", abort=True, err=True)
    done = removing.remove(library, name)
    if as_json:
        output.record(dataclasses.asdict(done))
    else:
        output.data(f"removed {', '.join(done.removed)}, {size(done.bytes)}")


def _size(row: Any) -> str:
    if row.installed:
        return size(row.bytes)
    return f"about {size(row.to_fetch)} to fetch" if row.to_fetch else "-"


def _preset(library: Any, name: str) -> Any:
    known = library.known()
    if name not in known:
        raise InvalidRequest(f"there is no model called {name!r}", f"choose one of: {', '.join(known)}", "name")
    return known[name]


def _installed(library: Any, name: str) -> Any:
    from model.errors import ModelError

    preset = _preset(library, name)
    try:
        return library.find(name) if library.missing(preset) else preset
    except ModelError as error:
        from farm.models.errors import ImportFailed

        raise ImportFailed(error.message, error.next) from None


def _new_name(name: str, library: Any) -> str:
    from model.wan.config import PRESETS

    if name in PRESETS or not name.isascii() or not all(c.isalnum() or c in "-._" for c in name) or name[0] in ".-":
        raise InvalidRequest(
            f"{name!r} cannot be the name of a new model", "use letters, digits, '-', '.' and '_'", "name"
        )
    return name


def _register(settings: Any) -> None:
    """Notes what is here in the farm's database, if there is one already. Never the reason for a failure."""
    from farm.models.register import register

    said = register(settings)
    if said is not None:
        output.note(said)


def _told_by_farm(settings: Any) -> dict[str, Json] | None:
    """The models as the running farm sees them; None if none answers."""
    import os

    try:
        url = os.environ.get("FARM_URL") or settings.url
        return {model["id"]: model for model in Client(url, timeout=2.0).get("/api/models")["data"]}
    except FarmError:
        return None


def _say_made(made: list[Any], as_json: bool) -> None:
    for component in made:
        if as_json:
            output.record({"name": component.name, "bytes": component.bytes, "digest": component.digest})
        else:
            output.data(f"{component.name}  {size(component.bytes)}  {component.digest[:16]}")
    sys.exit(Exit.OK)
