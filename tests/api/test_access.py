"""The matrix of roles and routes, made from the application's own routes: a new one without a rule fails here."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from farm.api.access import RULES, Rule, rule_of
from farm.api.app import create_app
from farm.api.services import Services
from farm.db import jobs, tokens
from farm.domain.job import JobSpec, NewJob
from farm.domain.person import Role

WHO = ("nobody", "artist", "owner", "operator", "admin")
LETS_IN = {
    Rule.ANYONE: set(WHO),
    Rule.PERSON: {"artist", "owner", "operator", "admin"},
    Rule.OWNER: {"owner", "operator", "admin"},
    Rule.OPERATOR: {"operator", "admin"},
    Rule.ADMIN: {"admin"},
}


def routes(app: Any) -> Iterator[tuple[str, str]]:
    """Every method and path that the application answers to."""
    for route in app.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes(inner)
        elif isinstance(route, APIRoute):
            yield from ((method, route.path.replace(":path}", "}")) for method in sorted(route.methods))
        else:
            assert route.path == "/static", f"{route.path}: a route that the gate does not see"


@pytest.fixture
def locked(services: Services) -> Iterator[tuple[TestClient, dict[str, dict[str, str]], str]]:
    """A farm with a person of each role, and a job of the owner."""
    spec = JobSpec("t2v", "demo-t2v", "digest", "a kite", 96, 96, 17, 12, 16, 7, 3.0)
    job = jobs.submit(services.db, [NewJob(spec, owner="owner")])[0].job.id
    headers: dict[str, dict[str, str]] = {"nobody": {}}
    for who in WHO[1:]:
        secret = tokens.create(services.db, who, Role.ARTIST if who == "owner" else Role(who), "test").secret
        headers[who] = {"Authorization": f"Bearer {secret}"}
    with TestClient(create_app(replace(services, public=True)), follow_redirects=False) as client:
        yield client, headers, job


def test_every_route_has_a_rule_and_every_rule_a_route(services: Services) -> None:
    there = {f"{method} {path}" for method, path in routes(create_app(services))}
    assert there - set(RULES) == set(), "say in farm/api/access.py who may ask for these"
    assert set(RULES) - there == set(), "these are gone"


def test_a_route_without_a_rule_is_for_admins() -> None:
    assert rule_of("GET", "/api/forgotten") is Rule.ADMIN


@pytest.mark.parametrize("who", WHO)
def test_each_role_may_what_its_rules_say_and_nothing_else(
    locked: tuple[TestClient, dict[str, dict[str, str]], str], who: str
) -> None:
    client, headers, job = locked
    wrong = []
    for method, path in routes(client.app):
        if path == "/api/events" and method == "GET":
            method = "HEAD"  # the stream itself never ends
        filled = path.replace("{job_id}", job).replace("{video_id}", job).replace("{verb}", "nothing")
        for name in ("worker_id", "name", "gpu", "digest", "prefix", "lane"):
            filled = filled.replace(f"{{{name}}}", "nothing")
        assert "{" not in filled, f"{path}: give this parameter a value"
        body = {"params": {"hold": 1}} if method in {"GET", "HEAD"} else {"json": {"no such field": 1}}
        answer = client.request(method, filled, headers=headers[who], **body)
        # The sign-in page answers 401 to a wrong password: that is its work.
        let_in = answer.status_code not in {401, 403} or "text/html" in answer.headers["content-type"]
        if let_in != (who in LETS_IN[rule_of(method, path)]):
            wrong.append((method, path, answer.status_code))
        if not let_in and method != "HEAD":
            assert answer.json()["error"]["code"] == ("not_signed_in" if who == "nobody" else "not_allowed")
    assert wrong == []
