"""Whose turn it is: lanes as the dispatcher sees them, and the pure choice among them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from farm.domain.states import Wish
from farm.domain.worker import Worker


class LaneClass(StrEnum):
    """Interactive lanes go before bulk ones, always."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(frozen=True)
class LaneView:
    """One lane: the jobs of one owner, project, class and model, in the order they will run.

    virtual_time in device seconds / weight; waiting and running count jobs; closed_reason None = open.
    open_until: when its window ends, or has ended.
    """

    id: str
    cls: str
    model: str
    virtual_time: float
    weight: float
    waiting: int
    running: int
    closed_reason: str | None
    open_until: datetime | None = None


def lane_id(owner: str, project: str, interactive: bool, model: str) -> str:
    cls = LaneClass.INTERACTIVE if interactive else LaneClass.BULK
    return f"{owner}/{project}/{cls}/{model}"


@dataclass(frozen=True)
class Reason:
    """Why something waits: a stable code, one true sentence, and what would help (may be empty)."""

    code: str
    sentence: str
    help: str = ""


def next_lane(lanes: Iterable[LaneView], worker: Worker, now: datetime) -> LaneView | Reason:
    """The lane whose head this worker should claim, or why there is none. Pure.

    Interactive before bulk; then the lane that has had least for its weight. A lane pays when its jobs
    end, so among equals the one with fewer running goes first; the id decides only for a stable order.
    """
    if worker.state == "gone":
        return Reason("worker_gone", f"Worker {worker.id} is gone.", "start a worker: farm up")
    if worker.wish is not Wish.RUN:
        return Reason("worker_unwilling", f"Worker {worker.id} is set to {worker.wish}.", "set it to run")
    waiting = [lane for lane in lanes if lane.waiting]
    if not waiting:
        return Reason("nothing_waits", "No job waits.")
    ready = [lane for lane in waiting if lane.closed_reason is None]
    if not ready:
        first = waiting[0]
        return Reason(
            "lanes_closed",
            f"Every lane with jobs is closed; {first.id}: {first.closed_reason}",
            "open a lane",
        )
    return min(ready, key=_turn)


def _turn(lane: LaneView) -> tuple[bool, float, float, str]:
    return lane.cls != LaneClass.INTERACTIVE, lane.virtual_time, lane.running / lane.weight, lane.id
