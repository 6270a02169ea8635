"""`farm bench`: runs the benchmarks beside what they measure, and says which cannot run here and why."""

import json
import subprocess
import sys
import time

import click

from farm.bench.menu import BENCHES, GROUPS, Bench, chosen, missing
from farm.cli import output
from farm.cli.client import Json
from farm.domain.errors import Exit


@click.command()
@click.argument("names", nargs=-1, metavar="[kernels|model|farm|NAME]...")
@click.option("--json", "as_json", is_flag=True, help="One line a benchmark.")
def bench(names: tuple[str, ...], as_json: bool) -> None:
    """Measure how fast it is here; without a name: what there is to measure, and what each needs.

    Farms that are measured are throw-away ones. Exits 1 if one failed or missed its goal, or if none could run.
    """
    known = {*GROUPS, *(one.name for one in BENCHES)}
    if strange := next((name for name in names if name not in known), None):
        raise click.BadParameter(f"{strange!r} is not one of: {', '.join([*GROUPS, *(b.name for b in BENCHES)])}")
    if not names:
        _menu(as_json)
        return
    codes: list[int] = []
    for one in chosen(names):
        why = "; ".join(missing(one))
        if why:
            output.note(f"{one.name} is skipped: {why}")
            if as_json:
                output.record({"bench": one.name, "skipped": why})
            continue
        output.note(f"{one.name}: {one.says}, about {one.takes}")
        codes.append(_measured(one) if as_json else _run(one))
    if not codes or any(codes):
        sys.exit(Exit.FAILED)


def _menu(as_json: bool) -> None:
    if as_json:
        output.records(_plain(one) for one in BENCHES)
        return
    output.table(
        [[one.group, one.name, one.takes, "; ".join(missing(one)) or "can run here", one.says] for one in BENCHES],
        ["group", "name", "takes", "here", "measures"],
    )
    output.note("run some: farm bench farm, or by name: farm bench page")


def _plain(one: Bench) -> Json:
    return {
        "bench": one.name, "group": one.group, "measures": one.says, "takes": one.takes, "needs": list(one.needs),
        "missing": missing(one), "command": ["python", *one.command(False)],
    }  # fmt: skip


def _run(one: Bench) -> int:
    """What it prints is what we print."""
    with subprocess.Popen([sys.executable, *one.command(False)], stdin=subprocess.DEVNULL) as process:
        return _ended(process)


def _measured(one: Bench) -> int:
    """Its JSON on one line with its name; the lines of one that speaks to people only."""
    began = time.monotonic()
    command = [sys.executable, *one.command(True)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        said = process.stdout.read()
        code = _ended(process)
    output.record(
        {"bench": one.name, "exit": code, "seconds": round(time.monotonic() - began, 1), "result": _result(said)}
    )
    return code


def _result(said: str) -> object:
    """One JSON value, a list of those of each line, or the lines themselves."""
    lines = [line for line in said.splitlines() if line.strip()]
    for text in ([said], lines):
        try:
            found: list[object] = [json.loads(part) for part in text]
        except ValueError:
            continue
        return found[0] if text == [said] else found
    return lines


def _ended(process: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> int:
    """The terminal's Ctrl-C reaches it too, and it has a farm to take down: it is waited for."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
