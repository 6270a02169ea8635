"""Moments as people write them, in the time of their own machine."""

import re
from datetime import datetime, timedelta, tzinfo

from farm.domain.errors import InvalidRequest

_UNITS = {"m": 60, "min": 60, "h": 3600, "d": 86400}


def moment(text: str, now: datetime | None = None) -> str:
    """RFC 3339 of 22:00 (the next one), 90m, 2h, 2026-01-31T22:00 or a moment with a time zone.

    Raises InvalidRequest. `now`: where it is given, its zone is meant instead of this machine's.
    """
    zone = None if now is None else now.tzinfo
    now = now or datetime.now().astimezone()
    said = text.strip()
    if found := re.fullmatch(r"(?:in\s+)?(\d{1,5}(?:\.\d+)?)\s*(m|min|h|d)", said):
        return (now + timedelta(seconds=float(found[1]) * _UNITS[found[2]])).isoformat(timespec="seconds")
    try:
        if found := re.fullmatch(r"(\d{1,2}):(\d{2})", said):
            wall = datetime(now.year, now.month, now.day, int(found[1]), int(found[2]))
            today = _here(wall, zone)
            return (today if today > now else _here(wall + timedelta(days=1), zone)).isoformat()
        when = datetime.fromisoformat(said)
    except ValueError:
        raise InvalidRequest(
            f"{text!r} is no moment", "write 22:00, 90m, 2h or 2026-01-31T22:00", "not_before"
        ) from None
    return (when if when.tzinfo is not None else _here(when, zone)).isoformat()


def duration(text: str, field: str) -> float:
    """Seconds of 30d, 12h or 90m. Raises InvalidRequest."""
    found = re.fullmatch(r"(\d{1,5}(?:\.\d+)?)\s*(m|min|h|d)", text.strip())
    if found is None:
        raise InvalidRequest(f"{text!r} is no duration", "write 30d, 12h or 90m", field)
    return float(found[1]) * _UNITS[found[2]]


def _here(wall: datetime, zone: tzinfo | None) -> datetime:
    """What the clock on the wall shows on that day: summer time may begin before it."""
    return wall.astimezone() if zone is None else wall.replace(tzinfo=zone)
