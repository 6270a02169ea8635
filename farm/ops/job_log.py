"""What this machine's logs say of one job: the lines of every process that name it, in the order of time."""

import json
from pathlib import Path
from typing import Any, cast

_MOST_BYTES = 200_000_000  # read for one answer, the newest files first


def lines_of(folder: Path, job: str, limit: int = 500) -> list[dict[str, Any]]:
    """The last `limit` of them. Files that rotate away meanwhile are as if they had never been."""
    found: list[dict[str, Any]] = []
    left = _MOST_BYTES
    for path in sorted(folder.glob("*.log*"), key=_age):
        try:
            left -= path.stat().st_size
            if left < 0:
                break
            with path.open("rb") as file:
                found += [line for raw in file if job.encode() in raw and (line := _of(raw, job)) is not None]
        except FileNotFoundError:
            continue
    found.sort(key=lambda line: str(line.get("time")))
    return found[-limit:]


def _of(raw: bytes, job: str) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except ValueError:  # the end of a process that was killed in mid-line
        return None
    return cast("dict[str, Any]", line) if isinstance(line, dict) and cast(Any, line).get("job") == job else None


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
