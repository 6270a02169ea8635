"""How reasons are put into words: spans of time, counts, moments."""

from datetime import UTC, datetime


def count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return ""
    seconds = (now - moment).total_seconds()
    return " just now" if seconds < 2 else f" {span(seconds)} ago"


def ahead(moment: datetime, now: datetime) -> str:
    """A moment to come, and how far off it is."""
    return f"{at(moment)}, {span((moment - now).total_seconds())} from now"


def at(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def span(seconds: float) -> str:
    """A duration as people say it, to the precision they need."""
    seconds = max(0, round(seconds))
    if seconds < 120:
        return count(seconds, "second")
    if seconds < 7200:
        return count(round(seconds / 60), "minute")
    return count(round(seconds / 3600), "hour") if seconds < 172800 else count(round(seconds / 86400), "day")


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def listed(parts: list[str], most: int = 3) -> str:
    """a; b; c and 2 more"""
    more = f" and {len(parts) - most} more" if len(parts) > most else ""
    return "; ".join(parts[:most]) + more


def begun(sentence: str) -> str:
    """With a capital and without its full stop, to go on with."""
    return sentence[:1].upper() + sentence[1:].rstrip(".")
