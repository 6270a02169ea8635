"""Who may do what: one rule a route, and the gate that every request passes. Without a rule, admins only."""

from enum import Enum, auto
from typing import Annotated, cast

from fastapi import Depends, Request
from starlette.routing import BaseRoute

from farm.api.accounts import Accounts, Visitor
from farm.api.body import read_form_token
from farm.db import jobs
from farm.db.engine import Database
from farm.domain.errors import NotAllowed
from farm.domain.person import Means, Person, Role
from farm.web.visitor import SIGNED_IN, SignedIn


class Rule(Enum):
    """What a route asks of who comes."""

    ANYONE = auto()  # also who has not signed in
    PERSON = auto()  # everybody who has
    OWNER = auto()  # of a job its owner, and operators
    OPERATOR = auto()
    ADMIN = auto()


_HERE = {
    Rule.ANYONE: [
        "GET /healthz", "GET /readyz", "GET /favicon.ico", "GET /login", "POST /login", "POST /logout",
        "GET /api/openapi.json",
    ],
    Rule.PERSON: [
        "POST /v1/videos", "GET /v1/videos", "GET /v1/videos/{video_id}", "GET /v1/videos/{video_id}/content",
        "POST /api/jobs", "GET /api/jobs", "GET /api/jobs/{job_id}", "POST /api/jobs/{job_id}/rerun",
        "GET /api/jobs/{job_id}/content", "GET /api/jobs/{job_id}/thumbnail", "GET /api/jobs/{job_id}/preview",
        "GET /api/jobs/{job_id}/strip", "POST /api/inspect",
        "GET /api/jobs/{job_id}/logs",
        "POST /api/batches", "GET /api/batches/{name}", "POST /api/prune",
        "POST /api/images", "GET /api/images/{digest}", "GET /api/images/{digest}/thumbnail",
        "GET /api/workers", "GET /api/workers/{worker_id}", "GET /api/nodes", "GET /api/gpus",
        "GET /api/lanes", "GET /api/usage",
        "GET /api/models", "GET /api/health", "GET /api/me",
        "GET /api/events", "HEAD /api/events",
        "GET /", "GET /jobs/{job_id}", "GET /workers", "GET /health", "GET /compare", "POST /submit",
    ],
    Rule.OWNER: [
        "DELETE /v1/videos/{video_id}", "PATCH /api/jobs/{job_id}",
        "POST /api/jobs/{job_id}/cancel", "POST /api/jobs/{job_id}/hold", "POST /api/jobs/{job_id}/release",
        "POST /api/jobs/{job_id}/retry", "POST /api/jobs/{job_id}/front", "POST /jobs/{job_id}/{verb}",
    ],
    Rule.OPERATOR: [
        "POST /api/workers/{worker_id}/wish", "POST /api/nodes/{name}/wish", "POST /api/gpus/{gpu}/quarantine",
        "POST /api/gpus/{gpu}/release", "PATCH /api/lanes/{lane}",
        "POST /workers/{name}/{verb}", "POST /nodes/{name}/{verb}", "POST /gpus/{name}/{verb}",
    ],
    Rule.ADMIN: ["GET /api/tokens", "POST /api/tokens", "DELETE /api/tokens/{prefix}"],
}  # fmt: skip
RULES = {route: rule for rule, routes in _HERE.items() for route in routes}

_NEEDS = {Rule.PERSON: Role.ARTIST, Rule.OWNER: Role.ARTIST, Rule.OPERATOR: Role.OPERATOR, Rule.ADMIN: Role.ADMIN}
_SAFE = {"GET", "HEAD", "OPTIONS"}


def rule_of(method: str, path: str) -> Rule:
    return RULES.get(f"{method} {path.replace(':path}', '}')}", Rule.ADMIN)


def gate(request: Request) -> Visitor:
    """Lets the request in or raises NotSignedIn, NotAllowed, TooManyTries. Runs beside the event loop."""
    accounts = cast(Accounts, request.app.state.accounts)
    route = cast(BaseRoute, request.scope["route"])
    rule = rule_of(request.method, str(getattr(route, "path", "")))
    if rule is Rule.ANYONE:
        return _maybe(accounts, request)
    visitor = accounts.who(request.headers, request.cookies, _address(request))
    person = visitor.person
    if not person.role.covers(_NEEDS[rule]):
        needed = "an operator" if _NEEDS[rule] is Role.OPERATOR else "an admin"
        raise NotAllowed(f"this is for {needed}, and {person.name} is an {person.role}", f"ask {needed} to do it")
    farm = request.app.state.services
    if rule is Rule.OWNER and not person.role.covers(Role.OPERATOR) and not farm.artists_change_all:
        _own(farm.db, request, person)
    return visitor


Gate = Annotated[Visitor, Depends(gate)]


async def own_page_only(request: Request, visitor: Gate) -> None:
    """A change that a cookie vouches for must come from a page of this farm, which carries the session's token.

    And tells the pages who they are drawn for.
    """
    if visitor.session is None:
        return
    accounts = cast(Accounts, request.app.state.accounts)
    token = accounts.sessions.form_token(visitor.session)
    SIGNED_IN.set(SignedIn(visitor.person.name, visitor.person.role.value, token))
    if request.method in _SAFE:
        return
    given = request.headers.get("x-csrf-token") or await read_form_token(request)
    if not accounts.sessions.same(token, given):
        raise NotAllowed("this change does not come from a page of this farm", "reload the page, then do it again")


def _maybe(accounts: Accounts, request: Request) -> Visitor:
    """Who it is, where that is asked without being needed: a bad cookie or header is nobody."""
    session = accounts.sessions.read(request.cookies.get(accounts.sessions.cookie, ""))
    if session is None:
        return Visitor(NOBODY)
    return Visitor(Person(session.name, session.role, Means.SESSION), session)


NOBODY = Person("", Role.ARTIST)


def _own(db: Database, request: Request, person: Person) -> None:
    params = request.path_params
    job = jobs.get(db, str(params.get("job_id") or params["video_id"]))
    reruns = request.url.path.endswith(
        ("/rerun", "/reseed")
    )  # the page's buttons for what makes a job of one's own
    if job.owner != person.name and not reruns:
        raise NotAllowed(
            f"job {job.id} belongs to {job.owner}", f"ask {job.owner} or an operator; a rerun makes one of your own"
        )


def _address(request: Request) -> str:
    return request.client.host if request.client else "nowhere"
