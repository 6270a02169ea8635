"""What the client knows of the world: FARM_URL, and how its output should look. Standard library only."""

import os
import sys

DEFAULT_URL = "http://127.0.0.1:7860"


def farm_url() -> str:
    return os.environ.get("FARM_URL", "").strip().rstrip("/") or DEFAULT_URL


def colour(stream: object) -> bool:
    """Whether `stream` is a terminal that wants colour (https://no-color.org)."""
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") != "dumb")


def speak_utf8() -> None:
    """Prompts are UTF-8 on every system, also on consoles and pipes that say otherwise.

    Unless PYTHONIOENCODING asks for another, as on a console that is set to code page 936.
    """
    asked = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace") if asked else reconfigure(encoding="utf-8", errors="replace")
    # Where the locale knows only ASCII, Python keeps an argument's other bytes as halves of characters.
    sys.argv[1:] = [
        os.fsencode(word).decode("utf-8", "replace") if _halved(word) else word for word in sys.argv[1:]
    ]


def _halved(word: str) -> bool:
    return any("\udc80" <= c <= "\udcff" for c in word)
