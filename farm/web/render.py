"""Templates and static files: the jinja environment, its filters, and pages that need nothing of the farm."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from farm.domain.errors import FarmError
from farm.web.visitor import with_form_token
from farm.web.words import LANGUAGES, WORDS, language
from farm.web.words.sentences import said

HERE = Path(__file__).parent
STATIC = HERE / "static"

# No other host is ever asked for anything, and no inline script or style runs.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def page(request: Request, template: str, context: dict[str, Any], status: int = 200) -> HTMLResponse:
    """In the reader's language; one that was asked for in the address is kept for later."""
    lang = spoken(request)
    speech = {
        "lang": lang,
        "t": WORDS[lang],
        "room": "jobs",
        "other_languages": [
            (code, name, _address_in(request, code)) for code, name in LANGUAGES.items() if code != lang
        ],
    }
    text = environment().get_template(template).render({**speech, **context})
    text = with_form_token(text, asset("session.js"), lang)
    answer = HTMLResponse(text, status, HEADERS)
    if request.query_params.get("lang") == lang != request.cookies.get("lang"):
        answer.set_cookie("lang", lang, max_age=31536000, samesite="lax")
    return answer


def spoken(request: Request) -> str:
    """The language of this reader."""
    accepted = request.headers.get("accept-language", "")
    return language(request.query_params.get("lang"), request.cookies.get("lang"), accepted)


def error_page(request: Request, error: FarmError, headers: dict[str, str] | None = None) -> Response:
    lang = spoken(request)
    says = {"message": said(error.message, lang), "next": said(error.next, lang)}
    answer = page(
        request,
        "error.html",
        {"error": error, "says": says, "compare": request.url.path == "/compare"},
        error.status,
    )
    for name, value in (headers or {}).items():
        answer.headers[name] = value
    return answer


def _address_in(request: Request, lang: str) -> str:
    # A form that was answered with a page has no address of its own to come back to.
    path = request.url.path if request.method == "GET" else "/"
    return f"{path}?{urlencode([*_said_in_address(request), ('lang', lang)])}"


def _said_in_address(request: Request) -> list[tuple[str, str]]:
    return [(name, value) for name, value in request.query_params.multi_items() if name != "lang"]


SPARK = 60  # values that a sparkline has room for


@cache
def environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    open_env: Any = env  # jinja2 leaves the types of both tables open
    open_env.filters.update(ago=ago, exact=exact, size=size, spark=spark, took=took)
    open_env.filters["said"] = said
    open_env.globals["asset"] = asset
    return env


def asset(name: str) -> str:
    """A static file's address. Modules name each other by relative addresses, so all share one version."""
    return f"/static/{version()}/{name}"


@cache
def version() -> str:
    """Changes with the content of any static file: browsers may keep each for ever."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:10]


def ago(time: str | None, t: Mapping[str, str]) -> str:
    """As in "3 min ago"; the script keeps it true afterwards, in the same words."""
    if time is None:
        return ""
    seconds = max((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds(), 0)
    if seconds < 10:
        return t["just_now"]
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return t[f"ago_{unit}"].format(n=int(seconds // length))
    return t["ago_s"].format(n=int(seconds))


def exact(time: str | None) -> str:
    return "" if time is None else datetime.fromisoformat(time).strftime("%Y-%m-%d %H:%M:%S UTC")


def size(count: int | None) -> str:
    if count is None:
        return "-"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} B"


def spark(values: Sequence[int], least: int = 0, most: int = 100) -> str:
    """The points of a line through `values` in a box of 120 x 24 whose right edge is now; the scale is fixed,
    so that a flat line at its foot means rest.
    """
    step = 120 / (SPARK - 1)
    first = 120 - step * (len(values) - 1)
    heights = (24 - 22 * (min(max(v, least), most) - least) / (most - least) - 1 for v in values)
    return " ".join(f"{first + step * i:.1f},{y:.1f}" for i, y in enumerate(heights))


def took(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:.1f}"
