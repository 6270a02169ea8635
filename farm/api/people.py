"""`/api/me` and `/api/tokens`: who is asking, and who else may."""

from typing import Any, cast

from fastapi import APIRouter, Request

from farm.api.accounts import Accounts
from farm.api.body import Body
from farm.api.present import Json, token_json
from farm.api.services import Farm
from farm.db import tokens
from farm.domain.errors import InvalidRequest
from farm.domain.fields import quote
from farm.domain.person import Role, check_name, check_role

router = APIRouter(prefix="/api", tags=["people"])

LONGEST = 10 * 365 * 86400.0  # seconds of a token with an end
SHORTEST = 60.0


@router.get("/me")
def me(farm: Farm) -> Json:
    """Who the farm takes you for, and what that role may do."""
    person = farm.person
    return {
        "object": "person",
        "name": person.name,
        "role": person.role.value,
        "signed_in_by": person.means.value,
        "may": {
            "submit": True,
            "change_own_jobs": True,
            "change_all_jobs": farm.artists_change_all or person.role.covers(Role.OPERATOR),
            "operate_workers": person.role.covers(Role.OPERATOR),
            "manage_tokens": person.role.covers(Role.ADMIN),
        },
    }


@router.get("/tokens")
def index(farm: Farm) -> Json:
    """Every token there ever was, the newest first. Their secrets are known to nobody but their people."""
    return {"object": "list", "data": [token_json(one) for one in tokens.find(farm.db)]}


@router.post("/tokens", status_code=201)
def create(farm: Farm, request: Request, body: Body) -> Json:
    """`token` of the answer is the secret, shown this once. Without `seconds` it is valid until it is revoked."""
    if unknown := sorted(set(body) - {"name", "role", "seconds", "by"}):
        raise InvalidRequest(
            f"a token has no field called {quote(unknown[0])}", "there are: name, role, seconds", unknown[0][:80]
        )
    name, role = check_name(body.get("name")), check_role(body.get("role", Role.ARTIST))
    made = tokens.create(farm.db, name, role, farm.by(_text(body.get("by"))), _seconds(body.get("seconds")))
    cast(Accounts, request.app.state.accounts).look_again()  # the first one ends the time of trust
    return {**token_json(made.token), "token": made.secret}


@router.delete("/tokens/{prefix}")
def revoke(farm: Farm, prefix: str) -> Json:
    """From this moment on nobody gets in with it. By its beginning, as the list shows it."""
    return token_json(tokens.revoke(farm.db, prefix, farm.by(None)))


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not SHORTEST <= value <= LONGEST:
        raise InvalidRequest(
            "seconds must be a number from a minute's to ten years'", "leave it out for no end", "seconds"
        )
    return float(value)


def _text(value: Any) -> str | None:
    return value.strip()[:60] if isinstance(value, str) and value.isprintable() else None
