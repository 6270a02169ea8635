"""Commands about the farm itself: up, down and migrate are for this machine, status asks FARM_URL."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from farm.cli import output
from farm.cli.client import Client, Json
from farm.domain.address import shown
from farm.domain.errors import Exit, FarmError

HOME = click.option("--home", type=click.Path(path_type=Path), help="Folder of the farm; default: ~/.turbofarm.")


def sign_in_options(command: Callable[..., None]) -> Callable[..., None]:
    """Where the page is served, and who may sign in with a password."""
    for option in (
        click.option("--auth-file", type=click.Path(path_type=Path), help="NAME:PASSWORD lines; chmod 600."),
        click.option("--auth", metavar="NAME:PASSWORD", help="One admin. Visible in `ps`: prefer --auth-file."),
        click.option("--host", metavar="ADDRESS", help="Where page and API listen. Default: 127.0.0.1."),
    ):
        command = option(command)
    return command


def auth_settings(host: str | None, auth: str | None, auth_file: Path | None) -> dict[str, str | None]:
    if auth is not None:
        output.note("--auth is visible to every user of this machine in `ps`; --auth-file FILE is not")
    return {"host": host, "auth": auth, "auth_file": None if auth_file is None else str(auth_file)}


class NotInstalled(FarmError):
    """The base install is the client only."""

    code = "server_not_installed"


@click.command()
@HOME
@click.option("--port", type=int, help="Default: 7860.")
@click.option("--workers", type=int, help="Default: one per visible GPU, or one on the CPU.")
@click.option("--model", help="Model that the workers keep in memory.")
@click.option("--with-servers", is_flag=True, help="Run a Postgres and an S3 server beside it, for a try-out.")
@sign_in_options
@click.option("--background", is_flag=True, help="Return once the farm is ready; stop it with `farm down`.")
def up(
    home: Path | None,
    port: int | None,
    workers: int | None,
    model: str | None,
    with_servers: bool,
    background: bool,
    host: str | None,
    auth: str | None,
    auth_file: Path | None,
) -> None:
    """Start a farm on this machine and keep it running until Ctrl-C (or `farm down`)."""
    options = {
        "home": home, "port": port, "workers": workers, "model": model, "with_servers": with_servers or None,
        **auth_settings(host, auth, auth_file),
    }  # fmt: skip
    settings = server_settings(**options)
    if background:
        from farm.cli.background import up_in_background

        sys.exit(up_in_background(settings, options))
    from farm.cluster import supervisor

    supervisor.up(settings, say=output.data)


@click.command()
@HOME
def down(home: Path | None) -> None:
    """Stop what runs on this folder: a farm, a server or a render node. Jobs under way go back into the queue."""
    settings = server_settings(home=home)
    from farm.cluster import supervisor

    output.data(supervisor.down(settings).message)


@click.command()
@HOME
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def migrate(home: Path | None, as_json: bool) -> None:
    """Bring the database to the schema of this version; prints the revision. Safe to repeat."""
    settings = server_settings(home=home)
    settings.make_folders()
    from farm.db import engine

    revision = engine.migrate(settings.database_url)
    output.record({"database": shown(settings.database_url), "revision": revision}) if as_json else output.data(
        revision
    )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def status(as_json: bool) -> None:
    """Is the farm well, who works, how much waits. Exits 1 if it is not ready."""
    client = Client()
    health = client.get("/api/health")
    if as_json:
        output.record({"url": client.url, **health})
    else:
        _tell(client.url, health)
    if health["status"] != "ok":
        sys.exit(Exit.FAILED)


def _tell(url: str, health: Json) -> None:
    output.data(f"{url}  {health['status']}")
    for name, said in health["checks"].items():
        if said != "ok":
            output.data(f"{name}: {said}")
    if health["outage"]["says"]:
        output.data(health["outage"]["says"])
    known = health["checks"]["database"] == "ok"
    waiting = ", ".join(f"{n} {name}" for name, n in health["jobs"].items() if n) or "none yet"
    output.data(f"jobs     {waiting if known else 'not known while the database is away'}")
    output.data(f"models   {', '.join(health['models']) or 'none installed'}")
    output.data(f"database {health['database']}")
    output.data(f"store    {health['store']}")
    if health["workers"]:
        rows = [
            [w["id"], w["node"], w["device"], w["state"], w["job"] or "-", str(w["jobs_done"]), str(w["pid"])]
            for w in health["workers"]
        ]
        output.data()
        output.table(rows, ["worker", "node", "device", "state", "job", "done", "pid"])
    elif known:
        output.data("workers  none: jobs wait until one is there")


def server_settings(**flags: Any) -> Any:
    """The server's settings. Only here does the client need the server's packages."""
    try:
        from farm.settings import load_settings
    except ImportError as error:
        raise NotInstalled(
            f"the server part is not installed here ({error.name} is missing)",
            "pip install 'turbofarm[server,gpu]', or set FARM_URL to a farm elsewhere",
        ) from None
    return load_settings(**flags)
