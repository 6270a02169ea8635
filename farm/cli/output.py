"""How the client speaks: data on stdout, everything else on stderr, errors as code + message + next step."""

import json
import os
import sys
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from farm.cli.config import colour
from farm.domain.errors import FarmError

Json = dict[str, Any]

_STATE_COLOUR = {"succeeded": 32, "failed": 31, "cancelled": 90, "running": 36, "leased": 36, "held": 33}


def data(line: str = "") -> None:
    print(line, flush=True)


def record(value: Any) -> None:
    """One JSON value on one line, as it is read back: what the stream cannot spell is escaped."""
    line = json.dumps(value, ensure_ascii=False)
    try:
        line.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        line = json.dumps(value)
    data(line)


def records(values: Iterable[Any]) -> None:
    """NDJSON, or [] where there is nothing: a reader can tell an empty list from a failure."""
    count = 0
    for value in values:
        record(value)
        count += 1
    if not count:
        data("[]")


def said(sentence: str) -> str:
    """In the language of FARM_LANG."""
    if not os.environ.get("FARM_LANG", "").lower().startswith("zh"):
        return sentence
    from farm.cli.chinese import translate

    return translate(sentence)


def note(line: str = "") -> None:
    line = "\n".join(map(said, line.split("\n")))
    print(line, file=sys.stderr, flush=True)


def fault(error: FarmError) -> None:
    red, dim, plain = ("\x1b[31m", "\x1b[2m", "\x1b[0m") if colour(sys.stderr) else ("", "", "")
    note(f"{red}{said('error')}{plain} {error.code}: {said(error.message)}")
    for row in getattr(error, "rows", []):
        where = said(f"line {row.get('line', row.get('row'))}")
        note(f"  {where}: {said(str(row.get('message')))}; {said(str(row.get('next')))}")
    if error.next:
        note(f"{dim}{said(error.next)}{plain}")


def state(name: str) -> str:
    if not colour(sys.stdout):
        return name
    return f"\x1b[{_STATE_COLOUR.get(name, 39)}m{name}\x1b[0m"


def table(rows: list[list[str]], header: list[str]) -> None:
    """Columns that line up, Chinese included; the last one is cut to the terminal by nobody."""
    widths = [max(width(row[i]) for row in [header, *rows]) for i in range(len(header))]
    dim, plain = ("\x1b[2m", "\x1b[0m") if colour(sys.stdout) else ("", "")
    for row in [[f"{dim}{name}{plain}" for name in header], *rows]:
        line = "  ".join(cell + " " * (widths[i] - width(cell)) for i, cell in enumerate(row))
        data(line.rstrip())


def width(text: str) -> int:
    """Columns that a terminal uses for `text`, colour codes aside."""
    columns, escape = 0, False
    for c in text:
        if c == "\x1b":
            escape = True
        elif escape:
            escape = c != "m"
        else:
            columns += 2 if unicodedata.east_asian_width(c) in "WF" else 1
    return columns


def padded(text: str, columns: int) -> str:
    """`text` on exactly so many columns."""
    text = cut(text, columns)
    return text + " " * (columns - width(text))


def cut(text: str, columns: int) -> str:
    """`text` on one line of at most `columns`."""
    text = " ".join(text.split())
    if width(text) <= columns:
        return text
    while width(text) > columns - 1:
        text = text[:-1]
    return text + "…"


def age(time: str | None) -> str:
    """12s, 4m, 3h or 2d ago."""
    if time is None:
        return "-"
    seconds = max((datetime.now(UTC) - datetime.fromisoformat(time.replace("Z", "+00:00"))).total_seconds(), 0)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def size(count: int) -> str:
    """A number of bytes as people read it."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} B"


def note_inline(line: str) -> None:
    """Redraws the terminal's current line; an empty one clears it."""
    print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)
