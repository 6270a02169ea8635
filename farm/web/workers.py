"""The workers' view: machines and their workers, what is wished of them, and the menus behind each."""

import json
from typing import Any

from farm.api.present import Json, percent, quarantine_json
from farm.api.services import Services
from farm.api.workers import node_list, quarantine, release, wish_of_node, wish_of_worker, worker_list
from farm.db import events, jobs, quarantines
from farm.domain.errors import FarmError
from farm.domain.states import ACTIVE
from farm.web.words import WORDS

_RUNNING: Json = {"wish": "run", "wish_now": False, "wish_by": None, "wish_reason": None, "wish_at": None}
_WISHES = {"resume": "run", "drain": "drain", "restart": "restart"}


class NoSuchButton(FarmError):
    """A form of an older page, or of none."""

    code = "not_found"
    status = 404


def workers_view(farm: Services, lang: str) -> dict[str, Any]:
    cursor = events.latest(farm.db)  # before anything is read: what happens meanwhile is told by the stream
    active, _ = jobs.find(farm.db, states=list(ACTIVE), limit=500)
    percents = {job.id: percent(job) for job in active}
    found: list[Json] = [{**worker, "percent": percents.get(worker["job"], 0)} for worker in worker_list(farm)]
    aside = [quarantine_json(one) for one in quarantines.find(farm.db)]
    wishes = {node["node"]: node for node in node_list(farm)}
    names = sorted({str(w["node"]) for w in found} | {q["node"] for q in aside} | set(wishes))
    return {
        "room": "workers",
        "cursor": cursor,
        "summary": _summary(found, lang),
        "groups": [_group(name, found, aside, wishes.get(name, _RUNNING)) for name in names],
    }


def wish_from_form(farm: Services, room: str, name: str, verb: str, body: Json) -> None:
    """What a form sends is text; its values are spelled as JSON. Raises NoSuchButton."""
    said: Json = {key: _value(value) for key, value in body.items()}
    if room in {"workers", "nodes"} and verb in _WISHES:
        said["wish"] = _WISHES[verb]
        (wish_of_worker if room == "workers" else wish_of_node)(farm, name, said)
    elif room == "gpus" and verb in {"quarantine", "release"}:
        (quarantine if verb == "quarantine" else release)(farm, name, said)
    else:
        raise NoSuchButton(f"nothing is called {verb!r} here", "go back and use the buttons")


def _group(name: str, found: list[Json], aside: list[Json], wish: Json) -> Json:
    mine = [worker for worker in found if worker["node"] == name]
    manned = {worker["gpu"] for worker in mine}
    return {
        "name": name,
        "wish": wish,
        "workers": mine,
        "busy": [worker["job"] for worker in mine if worker["job"]],
        "held_back": wish["wish"] != "run" or any(worker["wish"] != "run" for worker in mine),
        "empty": [one for one in aside if one["node"] == name and one["gpu"] not in manned],
    }


def _summary(found: list[Json], lang: str) -> str:
    words = WORDS[lang]
    counts = {state: sum(worker["state"] == state for worker in found) for state in ("busy", "idle", "starting")}
    aside = sum(worker["quarantine"] is not None for worker in found)
    parts = [f"{n} {words[state]}" for state, n in counts.items() if n]
    if aside:
        parts.append(f"{aside} {words['wish_quarantine']}")
    return ", ".join(parts)


def _value(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value
