"""What the client knows of the world: which farm, with which token, and how its output should look.

FARM_URL and FARM_TOKEN, else a profile (FARM_PROFILE, or the one in use) of the client's own file. Standard
library only.
"""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from farm.domain.errors import FolderUnusable, InvalidRequest

DEFAULT_URL = "http://127.0.0.1:7860"


@dataclass(frozen=True)
class Profile:
    """A farm and how to sign in there."""

    url: str
    token: str | None = field(default=None, repr=False)


def chosen() -> Profile:
    """What the environment says goes before the profile; a profile's token is for that profile's farm only."""
    url, token = _said("FARM_URL").rstrip("/"), _said("FARM_TOKEN") or None
    kept = current()
    if kept is None or (url and url != kept.url):
        return Profile(url or DEFAULT_URL, token)
    return Profile(kept.url, token or kept.token)


def farm_url() -> str:
    return chosen().url


def is_chosen() -> bool:
    """Whether anything names a farm; else it is this machine's."""
    return bool(_said("FARM_URL") or _said("FARM_TOKEN")) or current() is not None


def current() -> Profile | None:
    """The profile that FARM_PROFILE names, else the one in use. Raises InvalidRequest for one that is not there."""
    named = _said("FARM_PROFILE")
    found, used = profiles()
    name = named or used
    if name is None:
        return None
    if name not in found:
        raise InvalidRequest(f"there is no profile {name!r}", "see them with: farm config list", "profile")
    return found[name]


def profiles() -> tuple[dict[str, Profile], str | None]:
    """All of them, and the name of the one in use."""
    path = config_file()
    try:
        said: Any = json.loads(path.read_text(encoding="utf-8"))
        entries = cast("dict[str, dict[str, Any]]", said["profiles"])
        found = {name: Profile(str(one["url"]), one.get("token")) for name, one in entries.items()}
        return found, said.get("use")
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}", "correct or remove the file", "profile") from None


def keep(found: dict[str, Profile], used: str | None) -> Path:
    """Writes them where only this user can read: tokens are in it."""
    path = config_file()
    entries = {name: {"url": one.url, **({"token": one.token} if one.token else {})} for name, one in found.items()}
    text = json.dumps({"use": used, "profiles": entries}, ensure_ascii=False, indent=2) + "\n"
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(scratch, path)
    except OSError as error:
        raise FolderUnusable(
            f"{path} cannot be written: {error.strerror}", "set FARM_CONFIG to another file"
        ) from None
    return path


def config_file() -> Path:
    """FARM_CONFIG, else turbofarm/client.json in the folder where this system keeps settings."""
    if named := _said("FARM_CONFIG"):
        return Path(named).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or "~/AppData/Roaming")
    elif sys.platform == "darwin":
        base = Path("~/Library/Application Support")
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    return base.expanduser() / "turbofarm" / "client.json"


def _said(name: str) -> str:
    return os.environ.get(name, "").strip()


def colour(stream: object) -> bool:
    """Whether `stream` is a terminal that wants colour (https://no-color.org)."""
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") != "dumb")


def speak_utf8() -> None:
    """Prompts are UTF-8 on every system, also on consoles and pipes that say otherwise."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="replace")
