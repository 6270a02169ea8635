"""When and where a job may run, as people ask for it: after which jobs, on what kind of worker. Pure."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

from farm.domain.errors import InvalidRequest
from farm.domain.fields import number_of, quote
from farm.domain.job import KEY_OF, Dependency, Requires
from farm.domain.states import After

MOST_DEPENDENCIES = 64
MOST_TAGS = 16
MOST_GPUS = 64
ROW = "row:"  # of the same batch, counted from 1
_UNITS = {"": 1, "b": 1, "mb": 10**6, "mib": 2**20, "gb": 10**9, "gib": 2**30, "tb": 10**12, "tib": 2**40}
_EXAMPLE = 'like ["job_abcdefghijkl", {"job": "job_mnopqrstuvwx", "after": "any"}]'


def depends_on(value: object) -> tuple[Dependency, ...]:
    """The jobs to wait for: an id, {"job": id, "after": "success" or "any"}, or a list of them."""
    if value is None:
        return ()
    if isinstance(value, str):  # forms and shells have no lists
        value = [part.strip() for part in value.split(",") if part.strip()]
    wanted = cast("list[object]", value) if isinstance(value, list) else [value]
    if len(wanted) > MOST_DEPENDENCIES:
        raise _refused(
            f"a job can wait for at most {MOST_DEPENDENCIES} others, not {len(wanted)}", "chain them", "depends_on"
        )
    return tuple(_dependency(one) for one in wanted)


def _dependency(value: object) -> Dependency:
    said: Mapping[str, object] = {"job": value}
    if isinstance(value, dict):
        said = cast("dict[str, object]", value)
    job, after = said.get("job"), said.get("after", After.SUCCESS.value)
    if not isinstance(job, str) or not re.fullmatch(r"row:[1-9][0-9]{0,6}|(job_)?[a-z0-9]{1,40}", job):
        raise _refused(f"depends_on takes the ids of jobs, not {quote(job)}", _EXAMPLE, "depends_on")
    if set(said) - {"job", "after"} or after not in [mode.value for mode in After]:
        raise _refused('after must be "success" or "any"', _EXAMPLE, "depends_on")
    return Dependency(job, After(after))


def not_before(value: object) -> datetime | None:
    """RFC 3339 with a time zone: before this moment the job waits."""
    if value is None:
        return None
    example = "like 2026-01-31T22:00:00+01:00, or with Z for UTC"
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is None or not 2000 < moment.year < 9000:
            raise ValueError
    except ValueError:
        raise _refused(f"not_before must be a moment, not {quote(value)}", example, "not_before") from None
    if moment.tzinfo is None:
        raise _refused(f"not_before has no time zone: {quote(value)}", example, "not_before")
    return moment.astimezone(UTC)


def of_rows(wanted: Sequence[Dependency], keys: Mapping[int, str], row: int) -> tuple[Dependency, ...]:
    """References to rows of the batch as their keys. `keys`: of every row; `row`: this one."""
    found: list[Dependency] = []
    for one in wanted:
        if one.needs.startswith(ROW):
            number = int(one.needs.removeprefix(ROW))
            if number == row:
                raise _refused("a row cannot wait for itself", "leave it out", "depends_on")
            if number not in keys:
                raise _refused(
                    f"there is no row {number} to wait for", f"the batch has {len(keys)} rows", "depends_on"
                )
            one = replace(one, needs=KEY_OF + keys[number])
        found.append(one)
    return tuple(found)


def refuse_rows(wanted: Sequence[Dependency]) -> tuple[Dependency, ...]:
    """Of a job that is in no batch."""
    for one in wanted:
        if one.needs.startswith(ROW):
            raise _refused(f"{one.needs} means a row of a batch", "name a job by its id", "depends_on")
    return tuple(wanted)


def requires(value: object) -> Requires | None:
    """{tags, pool, memory, gpus}: what a worker must have."""
    if value is None:
        return None
    example = 'like {"tags": ["a100"], "pool": "film", "memory": "40GB", "gpus": 1}'
    if not isinstance(value, dict):
        raise _refused(f"requires must be an object, not {quote(value)}", example, "requires")
    said = cast("dict[str, Any]", value)
    if strange := sorted(set(map(str, said)) - {"tags", "pool", "memory", "gpus"}):
        raise _refused(f"a worker has no {quote(strange[0])} to require", example, "requires")
    found = Requires(
        tags=_tags(said.get("tags")), pool=_pool(said.get("pool")), memory=_memory(said.get("memory")),
        gpus=_gpus(said.get("gpus")),
    )  # fmt: skip
    return None if found == Requires() else found


def _tags(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    tags = cast("list[object]", value) if isinstance(value, list) else [value]
    if len(tags) > MOST_TAGS or not all(_is_name(tag) for tag in tags):
        raise _refused(f"tags must be at most {MOST_TAGS} short names", 'like ["a100", "night"]', "requires")
    return tuple(sorted({str(tag) for tag in tags}))


def _pool(value: object) -> str | None:
    if value is None:
        return None
    if not _is_name(value):
        raise _refused(f"pool must be a short name, not {quote(value)}", "like film", "requires")
    return str(value)


def _memory(value: object) -> int:
    if value is None:
        return 0
    match = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", str(value)) if not isinstance(value, bool) else None
    number = number_of(match[1]) if match else None
    unit = _UNITS.get(match[2].lower()) if match else None
    if number is None or unit is None or number * unit > 2**50:
        raise _refused(
            f"memory must be the bytes of a card, not {quote(value)}", "like 40GB, 80GiB or 24000000000", "requires"
        )
    return math.ceil(number * unit)


def _gpus(value: object) -> int:
    number = 1 if value is None else number_of(value)
    if number is None or number != int(number) or not 1 <= number <= MOST_GPUS:
        raise _refused(f"gpus must be from 1 to {MOST_GPUS}, not {quote(value)}", "leave it out for 1", "requires")
    return int(number)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 60 and value.isprintable() and value == value.strip()


def _refused(message: str, next: str, field: str) -> InvalidRequest:
    return InvalidRequest(message, next, field)
