"""Whose turn it is: lanes as the dispatcher sees them, and the pure choice among them."""

from dataclasses import dataclass
from enum import StrEnum


class LaneClass(StrEnum):
    """Interactive lanes go before bulk ones, always."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(frozen=True)
class LaneView:
    """One lane: the jobs of one owner, project, class and model, in the order they will run.

    virtual_time in device seconds / weight; waiting and running count jobs; closed_reason None = open.
    """

    id: str
    cls: str
    model: str
    virtual_time: float
    weight: float
    waiting: int
    running: int
    closed_reason: str | None


def lane_id(owner: str, project: str, interactive: bool, model: str) -> str:
    cls = LaneClass.INTERACTIVE if interactive else LaneClass.BULK
    return f"{owner}/{project}/{cls}/{model}"
