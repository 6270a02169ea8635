"""`farm chaos`: proves on a throw-away farm that whatever is killed, nothing is lost and nothing doubled."""

import random
import sys

import click

from farm.cli import output
from farm.cli.farm import NotInstalled
from farm.domain.errors import Exit


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0.05), default=5.0, show_default=True, help="Of faults.")
@click.option("--seed", type=int, help="Repeats a load and its faults; default: random, and printed.")
@click.option("--servers", is_flag=True, help="On Postgres and SeaweedFS instead of SQLite and a folder.")
@click.option("--workers", type=click.IntRange(1, 16), default=3, show_default=True)
@click.option("--keep", is_flag=True, help="Keep the farm's folder: database, videos, logs, journal.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def chaos(minutes: float, seed: int | None, servers: bool, workers: int, keep: bool, as_json: bool) -> None:
    """Kill and freeze the processes of a throw-away farm under load, then audit what it owes.

    Needs no GPU and touches no other farm. Exits 1 if anything was lost, doubled, stuck, overwritten or broken.
    """
    try:
        from farm.chaos.run import Plan, run_chaos
    except ImportError as error:
        raise NotInstalled(
            f"the server part is not installed here ({error.name} is missing)",
            "pip install 'turbofarm[server,gpu]'" + (" and 'turbofarm[tryout]'" if servers else ""),
        ) from None
    chosen = random.SystemRandom().randrange(2**31) if seed is None else seed
    output.note(f"seed {chosen}")
    report = run_chaos(Plan(minutes, chosen, servers, workers, keep), output.note)
    if as_json:
        output.record(report.plain())
    else:
        for line in report.lines():
            output.data(line)
    for violation in report.violations:
        output.note(f"VIOLATION {violation}")
    if report.kept is not None:
        output.note(f"kept: {report.kept}")
    if report.violations:
        sys.exit(Exit.FAILED)
