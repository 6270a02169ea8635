"""Templates and static files: the jinja environment, its filters, and pages that need nothing of the farm."""

import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from farm.domain.errors import FarmError
from farm.web.visitor import signed_in, with_form_token
from farm.web.words import STAGES, STATES, WORKERS

HERE = Path(__file__).parent
STATIC = HERE / "static"

# No other host is ever asked for anything, and no inline script or style runs.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def page(template: str, context: dict[str, Any], status: int = 200) -> HTMLResponse:
    lang = context.get("lang", "en")
    said = environment().get_template(template).render({"lang": lang, "t": WORKERS[lang], **context})
    return HTMLResponse(with_form_token(said, asset("session.js")), status, HEADERS)


def error_page(request: Request, error: FarmError, headers: dict[str, str] | None = None) -> Response:
    answer = page("error.html", {"error": error}, error.status)
    for name, value in (headers or {}).items():
        answer.headers[name] = value
    return answer


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
    open_env.filters.update(ago=ago, exact=exact, size=size, took=took)
    open_env.globals.update(
        asset=asset, signed_in=signed_in, states={s.value: word for s, word in STATES.items()}, stages=STAGES
    )
    return env


@cache
def asset(name: str) -> str:
    """A static file's address, which changes with its content: browsers may keep it for ever."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:10]
    return f"/static/{name}?v={digest}"


def ago(time: str | None) -> str:
    """As in "3 min ago"; the script keeps it true afterwards, in the same words."""
    if time is None:
        return ""
    seconds = max((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds(), 0)
    if seconds < 10:
        return "just now"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{int(seconds)} s ago"


def exact(time: str | None) -> str:
    return "" if time is None else datetime.fromisoformat(time).strftime("%Y-%m-%d %H:%M:%S UTC")


def size(count: int | None) -> str:
    if count is None:
        return "-"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} B"


def took(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:.1f}"
