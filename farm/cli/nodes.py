"""`farm serve` and `farm worker`: a farm of several machines."""

from pathlib import Path

import click

from farm.cli import output
from farm.cli.farm import HOME, auth_settings, server_settings, sign_in_options

TOKEN = click.option("--token-file", type=click.Path(path_type=Path), help="Default: farm-token in the folder.")


@click.command()
@HOME
@click.option("--port", type=int, help="Of the page and API. Default: 7860.")
@click.option(
    "--listen", metavar="ADDRESS", help="Address of this machine that render nodes reach. Default: none do."
)
@click.option("--ray-port", type=int, help="Where render nodes join. Default: 7861.")
@TOKEN
@click.option("--workers", type=int, help="Render here, too, with so many workers. Default: 0.")
@click.option("--model", help="Model that the workers keep in memory.")
@sign_in_options
def serve(
    home: Path | None,
    port: int | None,
    listen: str | None,
    ray_port: int | None,
    token_file: Path | None,
    workers: int | None,
    model: str | None,
    host: str | None,
    auth: str | None,
    auth_file: Path | None,
) -> None:
    """Start the server of a farm of several machines and keep it running until Ctrl-C (or `farm down`).

    It prints how render nodes join.
    """
    settings = server_settings(
        home=home, port=port, listen=listen, ray_port=ray_port, token_file=token_file and str(token_file),
        workers=workers, model=model, **auth_settings(host, auth, auth_file),
    )  # fmt: skip
    from farm.cluster import nodes

    nodes.serve(settings, say=output.data)


@click.command()
@click.option("--join", required=True, metavar="HOST[:PORT]", help="The server. Default port: 7861.")
@HOME
@TOKEN
@click.option("--workers", type=int, help="Default: one per visible GPU, or one on the CPU.")
@click.option(
    "--listen", metavar="ADDRESS", help="Address of this machine that the server reaches. Default: found out."
)
@click.option("--name", help="Name of this node, unlike any other's. Default: made of the host name.")
def worker(
    join: str,
    home: Path | None,
    token_file: Path | None,
    workers: int | None,
    listen: str | None,
    name: str | None,
) -> None:
    """Let this machine render for a server, until Ctrl-C (or `farm down`): then its jobs go back into the queue.

    FARM_DATABASE_URL and FARM_STORE (or farm.toml in the folder) name the server's database and store.
    CUDA_VISIBLE_DEVICES chooses the GPUs.
    """
    settings = server_settings(
        home=home, token_file=token_file and str(token_file), workers=workers, listen=listen, node=name
    )
    from farm.cluster import nodes

    nodes.work(settings, join, say=output.data)
