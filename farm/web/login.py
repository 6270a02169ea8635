"""Signing in and out with a browser: by name and password, or with a token instead of both."""

from typing import Annotated, cast
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from farm.api.accounts import Accounts
from farm.api.body import Body
from farm.api.sessions import LIFE
from farm.domain.errors import FarmError, NotSignedIn, TooManyTries
from farm.web.render import page
from farm.web.words import LANGUAGES, language

router = APIRouter(include_in_schema=False)

WORDS = {
    "en": {
        "title": "Sign in", "name": "Name", "password": "Password or token", "go": "Sign in",
        "token_hint": "A token (farm_…) needs no name. Whoever runs this farm makes one: farm token create",
        "wrong": "Name, password or token is wrong.",
        "wait": "Too many wrong tries. Wait a minute, then try again.",
    },
    "zh": {
        "title": "登录", "name": "用户名", "password": "密码或令牌", "go": "登录",
        "token_hint": "使用令牌（farm_…）时不需要用户名。令牌由农场管理员创建：farm token create",
        "wrong": "用户名、密码或令牌不正确。", "wait": "错误次数过多，请一分钟后再试。",
    },
}  # fmt: skip


def _accounts(request: Request) -> Accounts:
    return cast(Accounts, request.app.state.accounts)


Known = Annotated[Accounts, Depends(_accounts)]


@router.get("/login", response_class=HTMLResponse)
def ask(accounts: Known, request: Request, next: str = "/", lang: str | None = None) -> Response:
    if accounts.open:
        return RedirectResponse("/", 303)
    return _form(request, _here(next), lang=lang)


@router.post("/login")
def enter(accounts: Known, request: Request, body: Body) -> Response:
    name, password, wanted = (str(body.get(field) or "") for field in ("name", "password", "next"))
    address = request.client.host if request.client else "nowhere"
    try:
        person, proof = accounts.by_password(name.strip(), password.strip(), address)
    except (NotSignedIn, TooManyTries) as error:
        return _form(request, _here(wanted), error=error, name=name)
    session = accounts.sessions.open(person.name, person.role, proof)
    answer = RedirectResponse(_here(wanted), 303)
    answer.set_cookie(
        accounts.sessions.cookie, accounts.sessions.write(session), max_age=LIFE, httponly=True, samesite="lax",
        secure=request.url.scheme == "https",
    )  # fmt: skip
    return answer


@router.post("/logout")
def leave(accounts: Known) -> Response:
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(accounts.sessions.cookie)
    return answer


def _form(
    request: Request, wanted: str, *, error: FarmError | None = None, name: str = "", lang: str | None = None
) -> Response:
    kept = request.cookies.get("lang")
    spoken = language(lang, kept, request.headers.get("accept-language", ""))
    words = WORDS[spoken]
    said = None if error is None else words["wait" if isinstance(error, TooManyTries) else "wrong"]
    context = {
        "lang": spoken, "words": words, "next": wanted, "said": said, "name": name, "languages": LANGUAGES,
    }  # fmt: skip
    answer = page(request, "login.html", context, error.status if error else 200)
    if lang == spoken != kept:
        answer.set_cookie("lang", spoken, max_age=31536000, samesite="lax")
    return answer


def _here(wanted: str) -> str:
    """Only to a page of this farm: an address of elsewhere after signing in is how people are fished for."""
    parts = urlsplit(wanted)
    local = (
        wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc
    )
    return wanted if local and wanted.isprintable() and "\\" not in wanted else "/"
