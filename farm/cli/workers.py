"""`farm workers`: who renders, and what the operator wants of them. A wish is obeyed at the next heartbeat."""

import re
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from farm.cli import output
from farm.cli.client import Client, Json
from farm.cli.config import colour
from farm.domain.errors import Exit, FarmError, FarmUnreachable, InvalidRequest

JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
REASON = click.option("--reason", metavar="TEXT", help="Why, for everybody who looks.")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UNITS_OF_LOAD = (("utilisation", "%"), ("temperature", "°C"), ("power", "W"))
_LOOK_EVERY = 1.0  # seconds


@click.group(invoke_without_command=True)
@JSON
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.pass_context
def workers(ctx: click.Context, as_json: bool, watch: bool) -> None:
    """Who renders, on what, and doing what. Ids may be given by their beginning."""
    if ctx.invoked_subcommand is not None:
        return
    client = Client()
    if not watch:
        _show(*_look(client), as_json)
        return
    while True:
        try:
            found, unmanned = _look(client)
        except FarmError as error:  # away for a while: what was seen last stays, and it is asked again
            output.note(f"{error.message}; asking again")
        else:
            if not as_json and colour(sys.stdout):
                print("\x1b[H\x1b[2J", end="")
            _show(found, unmanned, as_json)
        time.sleep(_LOOK_EVERY)


def _target(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        JSON,
        REASON,
        click.option("--all", "everywhere", is_flag=True, help="Every worker of the farm."),
        click.option("--node", metavar="NODE", help="Every worker of a node, also those that begin later."),
        click.argument("ids", metavar="[WORKER]...", nargs=-1),
    ):
        command = option(command)
    return command


NOW = click.option("--now", is_flag=True, help="Give the job in hand back at its next step; do not finish it.")
WAIT = click.option("--wait", is_flag=True, help="Return once it is so.")


@workers.command()
@_target
@NOW
@WAIT
def drain(
    ids: tuple[str, ...],
    node: str | None,
    everywhere: bool,
    reason: str | None,
    as_json: bool,
    now: bool,
    wait: bool,
) -> None:
    """Let workers finish the job in hand, and give them no other one."""
    _wish("drain", ids, node, everywhere, reason, as_json, now, _drained if wait else None)


@workers.command()
@_target
@NOW
@WAIT
def restart(
    ids: tuple[str, ...],
    node: str | None,
    everywhere: bool,
    reason: str | None,
    as_json: bool,
    now: bool,
    wait: bool,
) -> None:
    """End workers once they have finished the job in hand, and start new ones in their place."""
    _wish("restart", ids, node, everywhere, reason, as_json, now, _restarted if wait else None)


@workers.command()
@_target
def resume(ids: tuple[str, ...], node: str | None, everywhere: bool, reason: str | None, as_json: bool) -> None:
    """Let drained workers take jobs again."""
    _wish("run", ids, node, everywhere, reason, as_json)


@workers.command()
@click.argument("gpu")
@click.option("--for", "duration", metavar="TIME", help="Such as 90s, 30m, 1h, 2d; then a probe decides.")
@REASON
@JSON
def quarantine(gpu: str, duration: str | None, reason: str | None, as_json: bool) -> None:
    """Set GPU aside: no job goes there. Without --for it stays so until `farm workers release`."""
    body = {"seconds": None if duration is None else _seconds(duration), "reason": reason, "by": _me()}
    made = Client().post(f"/api/gpus/{quote(gpu, safe='')}/quarantine", body)
    if as_json:
        output.record(made)
    else:
        output.data(made["gpu"])
        output.note(f"in quarantine {_until(made)}")


@workers.command()
@click.argument("gpu")
@JSON
def release(gpu: str, as_json: bool) -> None:
    """Let GPU work again: it is well."""
    told = Client().post(f"/api/gpus/{quote(gpu, safe='')}/release", {"by": _me()})
    output.record(told) if as_json else output.data(told["gpu"])


# -- wishes ------------------------------------------------------------------------------------------------------

Met = Callable[[Json, list[Json]], bool]


def _wish(
    wish: str,
    ids: tuple[str, ...],
    node: str | None,
    everywhere: bool,
    reason: str | None,
    as_json: bool,
    now: bool = False,
    met: Met | None = None,
) -> None:
    if (bool(ids) + bool(node) + everywhere) != 1:
        raise InvalidRequest("say which: WORKER, --node NODE or --all", "see them with: farm workers", "worker")
    client = Client()
    body = {"wish": wish, "now": now, "reason": reason, "by": _me()}
    before: list[Json] = client.get("/api/workers")["data"]
    worst, meant = Exit.OK, []
    names = list(ids)
    if node:
        told = client.post(f"/api/nodes/{quote(node, safe='')}/wish", body)
        meant = [worker for worker in before if worker["node"] == told["node"]]
        if as_json:
            output.record(told)
        else:
            output.data(told["node"])
            output.note(_said(wish, now, [worker for worker in meant if worker["job"]]))
    elif everywhere:
        if wish == "run":  # what is wished of a node holds its workers back, too
            held = [n["node"] for n in client.get("/api/nodes")["data"] if n["wish"] != "run"]
            for name in held:
                client.post(f"/api/nodes/{quote(name, safe='')}/wish", body)
        names = [worker["id"] for worker in before]
        if not names:
            output.note("no worker is there")
    for name in names:
        try:
            told = client.post(f"/api/workers/{quote(name, safe='')}/wish", body)
        except FarmUnreachable:
            raise
        except FarmError as error:  # the others are still told
            output.fault(error)
            worst = max(worst, error.exit)
            continue
        meant.append(told)
        if as_json:
            output.record(told)
        else:
            output.data(told["id"])
            output.note(_said(wish, now, [told] if told["job"] else []))
    if met is not None:
        _wait(client, meant, met)
    sys.exit(worst)


def _said(wish: str, now: bool, busy: list[Json]) -> str:
    done = {"drain": "takes no more jobs", "restart": "is replaced by a new process", "run": "takes jobs"}[wish]
    if wish == "run" or not busy:
        return done
    jobs = ", ".join(worker["job"] for worker in busy)
    return f"{done}; {jobs} {'goes back into the queue' if now else 'is finished first'}"


def _wait(client: Client, meant: list[Json], met: Met) -> None:
    """Until the wish has come true for each of them; the farm may be away meanwhile."""
    left, away = list(meant), False
    while left:
        try:
            found: list[Json] = client.get("/api/workers")["data"]
        except FarmError as error:
            if not away:
                output.note(f"{error.message}; asking again")
            away = True
        else:
            away = False
            left = [worker for worker in left if not met(worker, found)]
        if left:
            time.sleep(0.2)


def _drained(worker: Json, found: list[Json]) -> bool:
    now = next((w for w in found if w["id"] == worker["id"]), None)
    return now is None or (now["job"] is None and now["state"] != "busy")


def _restarted(worker: Json, found: list[Json]) -> bool:
    """Its process is gone, and a new one on the same device is ready."""
    if any(w["id"] == worker["id"] for w in found):
        return False
    return any(w["gpu"] == worker["gpu"] and w["state"] in {"idle", "busy"} for w in found)


def _seconds(duration: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", duration.strip())
    if match is None:
        raise InvalidRequest(f"{duration!r} is no span of time", "write it as 90s, 30m, 1h or 2d", "for")
    return float(match[1]) * _UNITS[match[2]]


def _me() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return "somebody"


# -- the list ----------------------------------------------------------------------------------------------------


def _look(client: Client) -> tuple[list[Json], list[Json]]:
    """The workers, and the GPUs in quarantine whose workers have been ended."""
    found: list[Json] = client.get("/api/workers")["data"]
    manned = {worker["gpu"] for worker in found}
    return found, [one for one in client.get("/api/gpus")["data"] if one["gpu"] not in manned]


def _show(found: list[Json], unmanned: list[Json], as_json: bool) -> None:
    if as_json:
        output.records(found)
        return
    for one in unmanned:
        output.note(f"{one['gpu']} on {one['node']} is in quarantine {_until(one)}: {one['reason']}")
    if not found:
        output.note("no worker is running; jobs wait until one is there: farm status")
        return
    rows = [
        [
            w["id"][:8], w["node"], w["device"], w["gpu"], w["state"], _wanted(w), w["job"] or "-",
            _stage(w["stage"]), _load(w), _memory(w), ", ".join(w["resident"]) or "-",
            output.age(w["heartbeat_at"]),
        ]
        for w in found
    ]  # fmt: skip
    header = [
        "worker",
        "node",
        "device",
        "gpu",
        "state",
        "wish",
        "job",
        "stage",
        "load",
        "memory",
        "models",
        "heard",
    ]
    output.table(rows, header)
    for w in found:
        if w["quarantine"]:
            output.note(f"{w['gpu']} is in quarantine {_until(w['quarantine'])}: {w['quarantine']['reason']}")
        elif w["wish"] != "run" and w["wish_reason"]:
            output.note(f"{w['id'][:8]} is set to {w['wish']} by {w['wish_by']}: {w['wish_reason']}")


def _wanted(worker: Json) -> str:
    if worker["quarantine"]:
        return "quarantine"
    now = ", now" if worker["wish_now"] and worker["wish"] != "run" else ""
    return f"{worker['wish']}{now}{' (node)' if worker['wish_of_node'] else ''}"


def _until(one: Json) -> str:
    return f"until {one['until']}, then a probe decides" if one["until"] else "until it is released"


def _stage(at: Json | None) -> str:
    if at is None:
        return "-"
    return f"{at['stage']} {at['k']}/{at['n']}" if at["n"] else at["stage"]


def _load(worker: Json) -> str:
    load: dict[str, Any] = worker["load"] or {}
    said = [f"{load[name]} {unit}" for name, unit in _UNITS_OF_LOAD if load.get(name) is not None]
    return " ".join(said) or "-"


def _memory(worker: Json) -> str:
    """On the device by anybody, where it tells; else of the process."""
    load: dict[str, Any] = worker["load"] or {}
    used: int | None = load.get("memory") or worker["memory"]
    if used is None:
        return "-"
    total = f" of {output.size(worker['memory_total'])}" if worker["memory_total"] else ""
    return output.size(used) + total
