"""Which finished jobs are to make room, as people say it, and what that would free."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, cast

from farm.domain.errors import InvalidRequest
from farm.domain.fields import Fields, quote, refuse_unwritable
from farm.domain.states import FINAL, JobState

FILTERS = ("older_than", "states", "owner", "project", "batch", "tags")
_FIELDS = (*FILTERS, "keep_rows", "dry_run", "as_of", "limit")
_LONGEST = 36_500 * 86_400.0
MOST = 500  # jobs of one request
_DEFAULT = frozenset({JobState.FAILED, JobState.CANCELLED})  # whoever wants to lose videos has to say so


@dataclass(frozen=True)
class Scope:
    """Jobs in these final states that fit all that is given. `older_than`: seconds since their end.

    keep_rows: only videos go, the jobs stay in every list. as_of: what has ended later stays.
    """

    states: frozenset[JobState] = _DEFAULT
    older_than: float = 0.0
    owner: str | None = None
    project: str | None = None
    batch: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    keep_rows: bool = False
    as_of: datetime | None = None

    def of(self, owner: str) -> "Scope":
        return replace(self, owner=owner)


@dataclass(frozen=True)
class Order:
    """What one request asks for: `limit` jobs at most, or only the sum of all."""

    scope: Scope
    dry_run: bool
    limit: int


@dataclass(frozen=True)
class Candidate:
    """A job as it was when somebody looked: whatever has happened to it since shows in these."""

    job: str
    epoch: int
    finished_at: datetime


@dataclass(frozen=True)
class Outlook:
    """What a scope holds. `bytes`: of the videos alone. `waited_for`: fit, but unfinished jobs wait for them.

    images_kept: first frames of these jobs that other jobs use too.
    """

    jobs: int
    bytes: int
    oldest: datetime | None
    newest: datetime | None
    waited_for: int
    images_kept: int
    as_of: datetime


def prune_order(body: Mapping[str, Any]) -> Order:
    """A request's wish. Nothing is removed unless it says `dry_run: false`. Raises InvalidRequest."""
    refuse_unwritable(body)
    asked = Fields(body, _FIELDS)
    if all(asked.get(name) is None or asked.get(name) in ([], {}) for name in FILTERS):
        raise InvalidRequest(
            "without any filter this would be every finished job",
            "say which: older_than, states, project, batch, tags",
            "older_than",
        )  # fmt: skip
    keep_rows = asked.flag("keep_rows")
    states = _states(asked.get("states"))
    if keep_rows and JobState.SUCCEEDED not in states:
        raise InvalidRequest(
            "keep_rows removes videos, and jobs that failed or were cancelled have none",
            "name the state succeeded",
            "keep_rows",
        )  # fmt: skip
    dry_run = asked.get("dry_run")
    limit = asked.integer("limit")
    if limit is not None and not 1 <= limit <= MOST:
        raise InvalidRequest(f"limit must be from 1 to {MOST}", "leave it out", "limit")
    scope = Scope(
        states, _seconds(asked.number("older_than")), _text(asked, "owner"), _text(asked, "project"),
        _text(asked, "batch"), _tags(asked.get("tags")), keep_rows, _moment(asked.get("as_of")),
    )  # fmt: skip
    return Order(scope, True if dry_run is None else asked.flag("dry_run"), limit or MOST)


def _states(value: object) -> frozenset[JobState]:
    if value is None or value == []:
        return _DEFAULT
    words = cast("list[object]", value) if isinstance(value, list) else [value]
    ends = {state.value: state for state in FINAL}
    for word in words:
        if not isinstance(word, str) or word not in ends:
            raise InvalidRequest(
                f"{quote(word)} is not how a job ends", f"choose from: {', '.join(sorted(ends))}", "states"
            )
    return frozenset(ends[str(word)] for word in words)


def _seconds(value: float | None) -> float:
    if value is None:
        return 0.0
    if not 0 <= value <= _LONGEST or math.isnan(value):
        raise InvalidRequest(
            "older_than must be from 0 seconds to 36500 days", "like 2592000 for 30 days", "older_than"
        )
    return value


def _text(asked: Fields, name: str) -> str | None:
    value = asked.get(name)
    if value is not None and (not isinstance(value, str) or "\0" in value):
        raise InvalidRequest(f"{name} must be a text, not {quote(value)}", "leave it out for all of them", name)
    return value


def _tags(value: object) -> dict[str, str]:
    said = cast("dict[object, object]", value) if isinstance(value, dict) else {} if value is None else None
    if said is None or not all(isinstance(x, str) and "\0" not in x for pair in said.items() for x in pair):
        raise InvalidRequest("tags must be an object of texts", 'like {"shot": "12a"}', "tags")
    return {str(key): str(text) for key, text in said.items()}


def _moment(value: object) -> datetime | None:
    if value is None:
        return None
    try:
        when = datetime.fromisoformat(str(value))
        if when.tzinfo is not None and 1900 < when.year < 9000:  # within what every database can hold
            return when
    except ValueError:
        pass
    raise InvalidRequest(
        f"as_of is no moment with a time zone: {quote(value)}", "give what the dry run said", "as_of"
    )
