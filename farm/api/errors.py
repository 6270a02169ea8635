"""One error shape for every route: {"error": {code, message, next, field?, rows?}}."""

import logging
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from farm.domain.errors import FarmError, InvalidRequest, NotSignedIn, TooManyTries
from farm.domain.request import BadRows
from farm.web.render import error_page
from farm.web.words import language
from farm.web.words.sentences import said

log = logging.getLogger("farm.api")


class BodyTooLarge(FarmError):
    code = "body_too_large"
    status = 413


class BadBody(FarmError):
    """Neither JSON nor a form."""

    code = "invalid_body"
    status = 400


class WrongHost(FarmError):
    """Somebody else's page, or a name that is not this machine's, asks."""

    code = "wrong_host"
    status = 403


def error_json(error: FarmError) -> dict[str, Any]:
    body: dict[str, Any] = {"code": error.code, "message": error.message, "next": error.next}
    if error.field is not None:
        body["field"] = error.field
    if isinstance(error, BadRows):
        body["rows"] = [{"row": row, **error_json(wrong)["error"]} for row, wrong in error.rows]
    return {"error": body}


def answer(request: Request, error: FarmError, headers: dict[str, str] | None = None) -> Response:
    """A page for people who browse, JSON for everything else; in the language that was asked for."""
    api = request.url.path.startswith(("/api", "/v1"))
    if isinstance(error, TooManyTries):
        headers = {**(headers or {}), "Retry-After": "60"}
    if not api and "text/html" in request.headers.get("accept", ""):
        if isinstance(error, NotSignedIn):
            wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            back = wanted if request.method in {"GET", "HEAD"} else "/"
            return RedirectResponse(f"/login?{urlencode({'next': back})}", 303)
        return error_page(request, error, headers)
    if isinstance(error, NotSignedIn):
        headers = {**(headers or {}), "WWW-Authenticate": 'Bearer realm="turbofarm"'}
    spoken = language(None, None, request.headers.get("accept-language", ""))
    error.message, error.next = said(error.message, spoken), said(error.next, spoken)
    return JSONResponse(error_json(error), error.status, headers)


def install(app: FastAPI) -> None:
    app.add_exception_handler(FarmError, _farm_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _parameter_error)
    app.add_exception_handler(Exception, _crash)


def _farm_error(request: Request, error: Exception) -> Response:
    error = cast(FarmError, error)
    if error.status >= 500:
        log.error("request failed", exc_info=error, extra={"path": request.url.path, "code": error.code})
    return answer(request, error)


def _http_error(request: Request, error: Exception) -> Response:
    error = cast(HTTPException, error)
    said = FarmError(str(error.detail), "see the README for the routes there are")
    said.status = error.status_code
    said.code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_").replace("'", "")
    if error.status_code == 404:
        said.message = f"there is nothing at {request.url.path}"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "other methods")
        said.message = f"{request.method} is not possible at {request.url.path}"
        said.next = f"it answers to {allowed}"
    return answer(request, said, dict(error.headers or {}))


def _parameter_error(request: Request, error: Exception) -> Response:
    first = cast(RequestValidationError, error).errors()[0]
    name = str(first["loc"][-1])
    return answer(request, InvalidRequest(f"{name}: {first['msg']}", f"correct {name}", name))


def _crash(request: Request, error: Exception) -> Response:
    log.error("request crashed", exc_info=error, extra={"path": request.url.path})
    return answer(
        request,
        FarmError("the farm made a mistake; it is in the log", "try again, and report it if it stays"),
    )
