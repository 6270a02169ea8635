"""`farm config`: the farms that this person works with, and how to sign in there."""

import sys

import click

from farm.cli import output
from farm.cli.config import Profile, config_file, keep, profiles
from farm.domain.errors import InvalidRequest

JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable.")


@click.group("config")
def config() -> None:
    """The farms that you work with. FARM_URL, FARM_TOKEN and FARM_PROFILE go before what is kept here."""


@config.command("list")
@JSON
def list_profiles(as_json: bool) -> None:
    """The profiles of this user; never their tokens."""
    found, used = profiles()
    shown = [
        {"name": name, "url": one.url, "token": one.token is not None, "in_use": name == used}
        for name, one in found.items()
    ]
    if as_json:
        output.records(shown)
    elif not shown:
        output.note("no profile yet; keep one: farm config add studio --url http://farm.studio.example:7860")
    else:
        rows = [
            ["*" if s["in_use"] else "", str(s["name"]), str(s["url"]), "token" if s["token"] else "-"]
            for s in shown
        ]
        output.table(rows, ["use", "profile", "farm", "signs in by"])
        output.note(f"kept in {config_file()}")


@config.command()
@click.argument("name")
@click.option("--url", required=True, help="Like http://farm.studio.example:7860.")
@click.option("--token", "with_token", is_flag=True, help="Ask for a token (on a pipe: read it from stdin).")
def add(name: str, url: str, with_token: bool) -> None:
    """Keep a farm under NAME and use it. The token is typed or piped in: a command line is visible to others."""
    from farm.cli.client import Client

    url = url.strip().rstrip("/")
    Client(Profile(url))  # refuses what is no address
    found, _ = profiles()
    keep({**found, name: Profile(url, _asked() if with_token else None)}, name)
    output.data(name)


@config.command()
@click.argument("name")
def use(name: str) -> None:
    """Talk to the farm of this profile from now on."""
    found, _ = profiles()
    _there(name, found)
    keep(found, name)
    output.data(found[name].url)


@config.command()
@click.argument("name")
def remove(name: str) -> None:
    """Forget a profile and its token. The token itself stays valid until an admin revokes it."""
    found, used = profiles()
    _there(name, found)
    keep({key: one for key, one in found.items() if key != name}, None if used == name else used)
    output.data(name)


@config.command()
@JSON
def show(as_json: bool) -> None:
    """Which farm a command would talk to now, and as whom."""
    from farm.cli.client import Client

    client = Client()
    me = client.get("/api/me")
    if as_json:
        output.record({"url": client.url, **{name: me[name] for name in ("name", "role", "signed_in_by")}})
    else:
        output.data(f"{client.url}  {me['name']}, {me['role']}")


def _there(name: str, found: dict[str, Profile]) -> None:
    if name not in found:
        raise InvalidRequest(f"there is no profile {name!r}", "see them with: farm config list", "profile")


def _asked() -> str:
    import getpass

    token = (getpass.getpass("Token: ") if sys.stdin.isatty() else sys.stdin.readline()).strip()
    if not token or not token.isascii() or not token.isprintable():
        raise InvalidRequest("that is no token", "it looks like farm_abcdefgh_...", "token")
    return token
