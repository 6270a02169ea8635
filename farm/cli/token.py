"""`farm token`: who may sign in. Asks the farm as an admin; with --home the database on the farm's own machine."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from farm.cli import output
from farm.cli.client import Client, Json
from farm.cli.config import is_chosen
from farm.domain.errors import Exit, FarmError, FarmUnreachable, InvalidRequest

JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
HERE = click.option(
    "--home", type=click.Path(path_type=Path), help="Folder of a farm on this machine: straight in its database."
)
_DAY = 86400.0


@click.group()
def token() -> None:
    """Tokens let people and programs in. Until the first one is made, a farm on loopback is open to its machine.

    Roles: an artist changes only jobs of their own, an operator also workers and others' jobs, an admin tokens.
    """


@token.command()
@click.argument("name")
@click.option("--role", type=click.Choice(["artist", "operator", "admin"]), default="artist", show_default=True)
@click.option("--for", "duration", metavar="TIME", help="Such as 12h, 30d; default: until it is revoked.")
@HERE
@JSON
def create(name: str, role: str, duration: str | None, home: Path | None, as_json: bool) -> None:
    """Make a token for the person NAME and print it: this once, it is kept nowhere."""
    seconds = None if duration is None else _seconds(duration)
    made = _farm(home).create(name, role, seconds)
    if as_json:
        output.record(made)
        return
    output.data(made["token"])
    ends = f"until {made['expires_at']}" if made["expires_at"] else "until revoked"
    output.note(f"{made['name']}, {made['role']}, {ends}; it is shown only now. Use it as FARM_TOKEN,")
    output.note("or keep it: farm config add studio --url URL --token")


@token.command("list")
@HERE
@JSON
def list_tokens(home: Path | None, as_json: bool) -> None:
    """Every token, the newest first: never the secret, only its beginning."""
    found = _farm(home).list()
    if as_json:
        output.records(found)
        return
    rows = [
        [t["prefix"], t["name"], t["role"], _state(t), output.age(t["created_at"]), output.age(t["last_used_at"])]
        for t in found
    ]
    if rows:
        output.table(rows, ["token", "person", "role", "state", "made", "used"])
    else:
        output.note("no token yet; make one: farm token create NAME --role admin")


@token.command()
@click.argument("prefixes", metavar="TOKEN...", nargs=-1, required=True)
@HERE
@JSON
def revoke(prefixes: tuple[str, ...], home: Path | None, as_json: bool) -> None:
    """Let nobody in with TOKEN any more (named by its beginning, as the list shows it)."""
    farm = _farm(home)
    worst = Exit.OK
    for prefix in prefixes:
        try:
            gone = farm.revoke(prefix)
        except FarmUnreachable:
            raise
        except FarmError as error:  # the others are still revoked
            output.fault(error)
            worst = max(worst, error.exit)
            continue
        output.record(gone) if as_json else output.data(gone["prefix"])
    raise SystemExit(worst)


class _ByApi:
    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, name: str, role: str, seconds: float | None) -> Json:
        return self._client.post("/api/tokens", {"name": name, "role": role, "seconds": seconds})

    def list(self) -> list[Json]:
        return self._client.get("/api/tokens")["data"]

    def revoke(self, prefix: str) -> Json:
        # Of a whole token only its public part travels in an address.
        return self._client.request("DELETE", f"/api/tokens/{quote(prefix[:13], safe='')}")


class _InDatabase:
    """Whoever may write the farm's database may do this; it is the way back in for those who lost their token."""

    def __init__(self, home: Path | None) -> None:
        from farm.cli.farm import server_settings

        self._settings: Any = server_settings(home=home)
        own = self._settings.database_url == f"sqlite:///{self._settings.home / 'farm.db'}"
        if own and (self._settings.home / "servers").exists():
            raise InvalidRequest(
                f"{self._settings.home} has a database server of its own",
                "start the farm, and leave --home out",
                "home",
            )

    def create(self, name: str, role: str, seconds: float | None) -> Json:
        from farm.api.present import token_json
        from farm.db import tokens
        from farm.domain.person import Role, check_name

        person = check_name(name)
        with self._open() as db:
            made = tokens.create(db, person, Role(role), _me(), seconds)
        return {**token_json(made.token), "token": made.secret}

    def list(self) -> list[Json]:
        from farm.api.present import token_json
        from farm.db import tokens

        with self._open() as db:
            return [token_json(one) for one in tokens.find(db)]

    def revoke(self, prefix: str) -> Json:
        from farm.api.present import token_json
        from farm.db import tokens

        with self._open() as db:
            return token_json(tokens.revoke(db, prefix, _me()))

    def _open(self) -> Any:
        """A database that is empty is made: a farm's first account may come before the farm."""
        import contextlib

        from farm.db import engine
        from farm.domain.errors import SchemaOutdated

        self._settings.make_folders()
        db = engine.open_database(self._settings.database_url)
        try:
            engine.check_schema(db)
        except SchemaOutdated as error:
            if "is empty" not in error.message:
                db.close()
                raise
            engine.migrate(self._settings.database_url)
        return contextlib.closing(db)


def _farm(home: Path | None) -> "_ByApi | _InDatabase":
    if home is not None:
        return _InDatabase(home)
    client = Client()
    if is_chosen():
        return _ByApi(client)
    try:
        client.get("/healthz")
    except FarmUnreachable:
        return _InDatabase(None)  # the farm of this machine, which is down
    return _ByApi(client)


def _state(one: Json) -> str:
    if one["revoked_at"]:
        return "revoked"
    from datetime import UTC, datetime

    ends = one["expires_at"]
    return "over" if ends and datetime.fromisoformat(ends.replace("Z", "+00:00")) < datetime.now(UTC) else "valid"


def _seconds(duration: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([mhd])", duration.strip())
    if match is None:
        raise InvalidRequest(f"{duration!r} is no span of time", "write it as 30m, 12h or 90d", "for")
    return float(match[1]) * {"m": 60.0, "h": 3600.0, "d": _DAY}[match[2]]


def _me() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return "somebody"
