"""Whether the page and API may be served where they are to be: nobody but loopback gets in without signing in."""

from pathlib import Path

from farm.db import tokens
from farm.db.engine import open_database
from farm.domain.errors import InvalidRequest, SchemaOutdated
from farm.settings import Settings

_SQLITE = "sqlite:///"


class NoSignIn(InvalidRequest):
    """To be served in public, without anybody who could sign in."""

    code = "no_sign_in"


def refuse_without_sign_in(settings: Settings) -> None:
    """Changes nothing, and makes no folder. Raises NoSignIn, and InvalidRequest for an auth file that is wrong."""
    some = settings.passwords()
    if not settings.is_public or some or _tokens_exist(settings):
        return
    where = f"on {settings.host}" if not settings.host_names else f"as {', '.join(settings.host_names)}"
    raise NoSignIn(
        f"page and API cannot be served {where} without sign-in: whoever reached it could use and stop the farm",
        "make an account: farm token create YOU --role admin, or NAME:PASSWORD lines in --auth-file FILE; or leave"
        f" host at 127.0.0.1 and reach it through ssh -L {settings.port}:127.0.0.1:{settings.port}",
        field="host",
    )


def _tokens_exist(settings: Settings) -> bool:
    path = settings.database_url.removeprefix(_SQLITE)
    if path != settings.database_url and not Path(path).exists():
        return False
    db = open_database(settings.database_url)
    try:
        return tokens.exist(db)
    except SchemaOutdated:  # of a farm before there were tokens, or of none yet
        return False
    finally:
        db.close()
