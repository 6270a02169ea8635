"""Names of files that every system can keep: Windows' forbidden letters, its devices, its short paths."""

import ntpath
import os
import re
import string
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from farm.domain.errors import InvalidRequest

MAX_NAME = 200  # bytes; the shortest limit of a usual file system is 255, and a part's name is longer
_MAX_PATH = 247  # letters of a path that every Windows program takes; a folder's limit is lower than a file's
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]+')


def safe_part(text: str) -> str:
    """`text` as a part of a name: one line, nothing that separates folders, drives or streams."""
    return re.sub(r"\s+", " ", _FORBIDDEN.sub("-", unicodedata.normalize("NFC", text))).strip()


def safe_name(text: str) -> str:
    """`text` as a whole name, its extension kept, also where it must be shortened."""
    stem, dot, extension = safe_part(text).rpartition(".")
    if not dot or not extension or len(extension) > 8:
        stem, dot, extension = f"{stem}{dot}{extension}", "", ""
    room = MAX_NAME - len((dot + extension).encode())
    stem = stem.encode()[:room].decode("utf-8", "ignore").rstrip(" .")
    name = f"{stem or 'video'}{dot}{extension}"
    return f"_{name}" if _DEVICES.match(name) else name


def fill(pattern: str, values: Mapping[str, object]) -> str:
    """`{prompt}_{seed:010}.mp4` with the values' words made safe. Raises InvalidRequest."""
    known = ", ".join(f"{{{name}}}" for name in values)
    parts: list[str] = []
    try:
        for text, field, form, _ in string.Formatter().parse(pattern):
            parts.append(text)
            if field is None:
                continue
            if field not in values:
                raise InvalidRequest(f"a file name has no {{{field}}}", f"choose from {known}", "output")
            value = values[field]
            parts.append(
                format(value, form or "") if isinstance(value, int) else safe_part(str(value))[:80].strip()
            )
    except ValueError as error:
        raise InvalidRequest(
            f"{pattern!r} is no pattern of a file name: {error}", f"use {known}", "output"
        ) from None
    return "".join(parts)


def reachable(path: Path) -> Path:
    """`path` in the form in which this system takes it, however long it is."""
    return Path(long_form(os.path.abspath(path))) if os.name == "nt" else path


def long_form(path: str) -> str:
    """An absolute Windows path that may be longer than 260 letters, and whose last part is not a device."""
    if len(path) <= _MAX_PATH or path.startswith("\\\\?\\"):
        return path
    path = ntpath.normpath(path)  # after the prefix, Windows takes every letter as it stands
    return f"\\\\?\\UNC{path[1:]}" if path.startswith("\\\\") else f"\\\\?\\{path}"
