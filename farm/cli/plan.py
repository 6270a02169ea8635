"""`farm models plan`: what of a model would stay on a card, and how much of the card a video takes."""

import sys
from pathlib import Path
from typing import Any

import click

from farm.cli import output
from farm.cli.client import Json
from farm.cli.farm import HOME, server_settings
from farm.domain.errors import Exit, InvalidRequest

GIB = 2**30


@click.command()
@click.argument("name")
@click.option("--size", metavar="WxH", help="Default: the model's own.")
@click.option("--frames", type=int, help="Default: the model's own. They are decoded a few at a time.")
@click.option(
    "--gpu-memory", "given", type=click.FloatRange(0, 4096, min_open=True), multiple=True, metavar="GB",
    help="Of a card that is not here; may be repeated. Default: the GPUs of this machine.",
)  # fmt: skip
@HOME
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def plan(
    name: str, size: str | None, frames: int | None, given: tuple[float, ...], home: Path | None, as_json: bool
) -> None:
    """Whether NAME fits on a card: which memory plan, what stays there, how much at most. Needs no farm, no GPU.

    Exits 1 if it fits on none of the cards asked about. GB are those of a card's label: 2^30 bytes.
    """
    settings = server_settings(home=home)
    from farm.domain.fields import Fields
    from farm.domain.shape import frames_asked, size_of
    from farm.models import fitting
    from model import memory
    from model.library import Library

    library = Library(settings.models)
    known = library.known()
    if name not in known:
        raise InvalidRequest(f"there is no model called {name!r}", f"choose one of: {', '.join(known)}", "name")
    preset = known[name]
    asked = Fields({"size": size, "frames": frames})
    picture, length = size_of(asked, preset, None), frames_asked(asked, preset)
    try:
        memory.asked_linears()
    except ValueError as error:
        raise InvalidRequest(str(error), "set it right for the farm's nodes too", memory.LINEARS) from None
    parts, counted = fitting.parts_of(library, preset)
    cards = [fitting.Card(_label(gb), int(gb * GIB)) for gb in given] or fitting.cards()
    fits = [fitting.fit(preset, parts, picture, card) for card in cards]
    costs = memory.costs(parts, picture)
    told: Json = {
        "name": name, "size": f"{picture[0]}x{picture[1]}", "frames": length,
        "weights": {"denoiser": parts.denoiser, "vae": parts.vae, "text_encoder": parts.text},
        "counted_in": "files" if counted else "shapes",
        "dtype": preset.dtype, "stored_8bit": parts.stored_8bit,
        "linears_8bit": parts.linears_8bit, "plans": [_plain(cost) for cost in costs],
        "cards": [_card(one) for one in fits],
    }  # fmt: skip
    if as_json:
        output.record(told)
    else:
        _tell(told, costs, fits)
    if fits and not any(one.cost for one in fits):
        sys.exit(Exit.FAILED)


def _plain(cost: Any) -> Json:
    """`streamed`: what comes to the card only while it is needed."""
    return {
        "plan": _name(cost), "resident": cost.resident, "work": cost.work, "peak": cost.peak,
        "streamed": ["text_encoder"] if cost.plan.text_on_host else [],
    }  # fmt: skip


def _card(fit: Any) -> Json:
    return {
        "card": fit.card.name, "memory": fit.card.memory, "free": fit.card.free,
        "plan": fit.cost and _name(fit.cost), "plan_now": fit.now and _name(fit.now),
        "smaller_size": fit.smaller and f"{fit.smaller[0]}x{fit.smaller[1]}",
    }  # fmt: skip


def _name(cost: Any) -> str:
    return "text-on-host" if cost.plan.text_on_host else "all-on-card"


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GB" if count >= GIB / 10 else f"{count / 2**20:.1f} MB"


def _label(gb: float) -> str:
    return f"{gb:g} GB"


def _tell(told: Json, costs: list[Any], fits: list[Any]) -> None:
    weights = told["weights"]
    parts = ", ".join(f"{part.replace('_', ' ')} {_gib(count)}" for part, count in weights.items())
    stored = "8-bit codes on disk, expanded while they are read" if told["stored_8bit"] else "no codes on disk"
    output.data(f"{told['name']}  {told['size']}, {told['frames']} frames")
    eight = "; the denoiser's linear layers in 8 bits (compute capability 8.0 and up)"
    output.data(f"weights   {parts} in {told['dtype']}{eight if told['linears_8bit'] else ''}; {stored}")
    output.table(
        [
            [
                _name(c), _gib(c.resident), _gib(c.work), _gib(c.peak),
                "the text encoder, while a prompt is read" if c.plan.text_on_host else "nothing",
            ]
            for c in costs
        ],
        ["plan", "resident", "beside it", "at most", "streamed from the host"],
    )  # fmt: skip
    for fit in fits:
        output.data(f"{fit.card.name} ({_gib(fit.card.memory)})  {_verdict(fit, costs)}")
    if not fits:
        output.note("no GPU here: ask about one with --gpu-memory 24")
    if told["counted_in"] == "shapes":
        output.note("its files are not here: counted from the layers that it has")


def _verdict(fit: Any, costs: list[Any]) -> str:
    if fit.cost is None:
        least = costs[-1].peak
        smaller = f", or --size {fit.smaller[0]}x{fit.smaller[1]}" if fit.smaller else ""
        return f"nothing fits: it takes a card with {_gib(least)} free{smaller}"
    said = f"fits: {_name(fit.cost)}, {_gib(fit.cost.peak)} at most"
    if fit.now is fit.cost:
        return said
    return f"{said}; now only {_gib(fit.card.free)} are free: {_name(fit.now) if fit.now else 'nothing fits'}"
