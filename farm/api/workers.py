"""`/api/workers`, `/api/nodes`, `/api/gpus`: who renders, on what, doing what, and what operators wish of them."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from fastapi import APIRouter

from farm.api.body import Body
from farm.api.present import Json, node_json, quarantine_json, worker_json
from farm.api.services import Farm, Services
from farm.db import jobs, nodes, quarantines, workers
from farm.domain.errors import FarmError, GpuNotFound, InvalidRequest, NodeNotFound, WorkerNotFound
from farm.domain.fields import quote
from farm.domain.states import ACTIVE, Wish
from farm.domain.worker import Quarantine, Worker

router = APIRouter(prefix="/api", tags=["workers"])

LONGEST = 365 * 86400.0  # seconds of a quarantine; without an end it is until somebody releases the GPU
_WORDS = 500  # characters of a reason
T = TypeVar("T")


class WishOfNode(FarmError):
    """What holds a worker back is wished of its whole node."""

    code = "wish_of_node"
    status = 409


class NotQuarantined(FarmError):
    code = "not_quarantined"
    status = 409


@router.get("/workers")
def index(farm: Farm) -> Json:
    return {"object": "list", "data": worker_list(farm)}


@router.get("/workers/{worker_id}")
def show(farm: Farm, worker_id: str) -> Json:
    """Also one that went within the last hour, by its id or the beginning of it."""
    return _shown(farm, [_worker(farm, worker_id)])[0]


@router.post("/workers/{worker_id}/wish")
def wish(farm: Farm, worker_id: str, body: Body) -> Json:
    """{wish: run | drain | restart | quarantine, now, reason, by}. `now` gives the job in hand back."""
    return wish_of_worker(farm, worker_id, body)


@router.get("/nodes")
def node_index(farm: Farm) -> Json:
    return {"object": "list", "data": node_list(farm)}


@router.post("/nodes/{name}/wish")
def node_wish(farm: Farm, name: str, body: Body) -> Json:
    """Of every worker of the node, also those that begin later. `run` resumes each of them."""
    return wish_of_node(farm, name, body)


@router.get("/gpus")
def gpu_index(farm: Farm) -> Json:
    """The GPUs in quarantine."""
    return {"object": "list", "data": [quarantine_json(one) for one in quarantines.find(farm.db)]}


@router.post("/gpus/{gpu}/quarantine")
def gpu_quarantine(farm: Farm, gpu: str, body: Body) -> Json:
    """{seconds, reason, by}: no job goes there; after `seconds` a probe decides, without them only a person."""
    return quarantine(farm, gpu, body)


@router.post("/gpus/{gpu}/release")
def gpu_release(farm: Farm, gpu: str, body: Body) -> Json:
    return release(farm, gpu, body)


# -- what the page does too ------------------------------------------------------------------------------------


def worker_list(farm: Services) -> list[Json]:
    """Those that live, by node and device."""
    living = [worker for worker in workers.find(farm.db) if worker.state != "gone"]
    return _shown(farm, sorted(living, key=lambda w: (w.node, w.gpu, w.id)))


def node_list(farm: Services) -> list[Json]:
    """Every node that has a worker, or something wished of it."""
    living = {worker.node for worker in workers.find(farm.db) if worker.state != "gone"}
    return [node_json(node) for node in nodes.find(farm.db) if node.node in living or node.wish is not Wish.RUN]


def wish_of_worker(farm: Services, worker_id: str, body: Json) -> Json:
    wanted, now, reason, by = _wish(farm, body)
    worker = _worker(farm, worker_id)
    if worker.state == "gone":
        raise WorkerNotFound(f"worker {worker.id} is gone", "see who is there: farm workers")
    of_node = next((node.wish for node in nodes.find(farm.db) if node.node == worker.node), Wish.RUN)
    if wanted is Wish.RUN and of_node is not Wish.RUN:
        raise WishOfNode(
            f"all of node {worker.node} is set to {of_node}", f"farm workers resume --node {worker.node}"
        )
    if wanted is Wish.RUN and (held := _quarantined(farm).get(worker.gpu)) and held.until is not None:
        # Set aside by faults: to resume the worker is to say that its GPU is well.
        quarantines.release(farm.db, worker.gpu, by)
    changed = workers.wish(farm.db, worker.id, wanted, by, reason, now)
    farm.poke()
    return _shown(farm, [changed])[0]


def wish_of_node(farm: Services, name: str, body: Json) -> Json:
    wanted, now, reason, by = _wish(farm, body)
    if wanted is Wish.QUARANTINE:
        raise InvalidRequest("a node cannot be quarantined, its GPUs can", "drain the node", "wish")
    node = _node(farm, name)
    mine = [worker for worker in workers.find(farm.db) if worker.node == node and worker.state != "gone"]
    if wanted is Wish.RESTART:
        # Restarting is over once it has happened: those that begin later have nothing to restart for.
        for worker in mine:
            workers.wish(farm.db, worker.id, Wish.RESTART, by, reason, now)
        changed = nodes.get(farm.db, node)
    else:
        changed = nodes.wish(farm.db, node, wanted, by, reason, now)
    if wanted is Wish.RUN:
        for worker in workers.find(farm.db):
            if worker.node == node and worker.state != "gone" and worker.wish is not Wish.RUN:
                workers.wish(farm.db, worker.id, Wish.RUN, by, reason, now)
    farm.poke()
    return node_json(changed)


def quarantine(farm: Services, gpu: str, body: Json) -> Json:
    _only(body, "seconds", "reason", "by")
    seconds = body.get("seconds")
    if seconds is not None:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= LONGEST:
            raise InvalidRequest(
                "seconds must be a number from 1 to a year's", "leave it out: until it is released", "seconds"
            )
        seconds = float(seconds)
    reason, by = _said(farm, body)
    made = quarantines.put(farm.db, _gpu(farm, gpu), reason or "set aside by hand", by, seconds)
    farm.poke()
    return quarantine_json(made)


def release(farm: Services, gpu: str, body: Json) -> Json:
    _only(body, "reason", "by")
    _, by = _said(farm, body)
    full = _gpu(farm, gpu)
    if not quarantines.release(farm.db, full, by):
        raise NotQuarantined(f"GPU {full} is not in quarantine", "see what is: farm workers")
    for worker in workers.find(farm.db):
        if worker.gpu == full and worker.wish is Wish.QUARANTINE:
            workers.wish(farm.db, worker.id, Wish.RUN, by)
    farm.poke()
    return {"gpu": full, "quarantined": False, "released_by": by}


def _shown(farm: Services, found: Sequence[Worker]) -> list[Json]:
    active, _ = jobs.find(farm.db, states=list(ACTIVE), limit=500)
    held, now = _quarantined(farm), datetime.now(UTC)
    return [worker_json(worker, active, held.get(worker.gpu), now) for worker in found]


def _quarantined(farm: Services) -> dict[str, Quarantine]:
    return {one.gpu: one for one in quarantines.find(farm.db)}


def _worker(farm: Services, text: str) -> Worker:
    found = workers.find(farm.db)
    living = [worker for worker in found if worker.state != "gone"]
    # Of the living first: what is typed means what is seen.
    among = living if any(worker.id.startswith(text) for worker in living) else found
    return _one(text, among, lambda worker: worker.id, WorkerNotFound, "worker")


def _node(farm: Services, text: str) -> str:
    names = {node.node for node in nodes.find(farm.db)} | {worker.node for worker in workers.find(farm.db)}
    return _one(text, sorted(names), str, NodeNotFound, "node")


def _gpu(farm: Services, text: str) -> str:
    known = {worker.gpu for worker in workers.find(farm.db)} | set(_quarantined(farm))
    return _one(text, sorted(known), str, GpuNotFound, "GPU")


def _one(text: str, among: Iterable[T], name: Callable[[T], str], missing: type[FarmError], what: str) -> T:
    """The one that is called so, or the only one whose name begins so."""
    found = [one for one in among if name(one).startswith(text)]
    if exact := [one for one in found if name(one) == text]:
        return exact[0]
    if len(found) == 1 and text:
        return found[0]
    if found and text:
        some = ", ".join(name(one) for one in found[:3])
        raise missing(f"more than one {what} begins with {quote(text)}: {some}", "give more characters")
    raise missing(f"there is no {what} {quote(text)}", "see them with: farm workers")


def _wish(farm: Services, body: Json) -> tuple[Wish, bool, str | None, str]:
    _only(body, "wish", "now", "reason", "by")
    said = body.get("wish")
    words = [str(wish) for wish in Wish]
    if said not in words:
        raise InvalidRequest(f"no wish is called {quote(str(said))}", f"choose from: {', '.join(words)}", "wish")
    now = body.get("now", False)
    if not isinstance(now, bool):
        raise InvalidRequest("now must be true or false", "true gives the job in hand back at its next step", "now")
    return Wish(said), now, *_said(farm, body)


def _said(farm: Services, body: Json) -> tuple[str | None, str]:
    """Why, and who. Where nobody signs in, who asks says who they are."""
    words: dict[str, Any] = {name: body.get(name) for name in ("reason", "by")}
    for name, text in words.items():
        if text is not None and (not isinstance(text, str) or len(text) > _WORDS):
            raise InvalidRequest(f"{name} must be a text of at most {_WORDS} characters", "shorten it", name)
    return (words["reason"] or "").strip() or None, farm.by((words["by"] or "").strip())


def _only(body: Json, *names: str) -> None:
    if strange := sorted(set(body) - set(names)):
        raise InvalidRequest(
            f"no field is called {quote(strange[0])} here", f"there are: {', '.join(names)}", "body"
        )
