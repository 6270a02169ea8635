"""`farm doctor`: what is wrong with this machine, and what to do."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from farm.cli import output
from farm.cli.config import colour
from farm.cli.farm import HOME, server_settings
from farm.domain.errors import Exit

if TYPE_CHECKING:
    from farm.ops.checks.finding import Finding

_COLOUR = {"ok": 32, "warning": 33, "failed": 31}


@click.command()
@HOME
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def doctor(home: Path | None, as_json: bool) -> None:
    """Look at driver, GPU, compiler, disk, database, store, port, models and the farm; changes nothing.

    Exits 1 if something must be mended; warnings do not count.
    """
    settings = server_settings(home=home)
    from farm.ops.doctor import examine

    found: list[Finding] = []
    for finding in examine(settings):
        found.append(finding)
        if not as_json:
            _tell(finding)
    wrong = [finding for finding in found if finding.verdict == "failed"]
    if as_json:
        fields = [
            {"check": f.check, "verdict": f.verdict, "sentence": f.sentence, "next": f.next} for f in found
        ]  # fmt: skip
        output.record({"ok": not wrong, "checks": fields})
    else:
        warnings = sum(finding.verdict == "warning" for finding in found)
        total = f"{len(found)} looked at: {len(wrong)} failed, {warnings} to be warned of"
        output.data(f"\n{output.said(total)}")
    if wrong:
        sys.exit(Exit.FAILED)


def _tell(finding: "Finding") -> None:
    verdict = output.padded(output.said(finding.verdict), 8)
    if colour(sys.stdout):
        verdict = f"\x1b[{_COLOUR[finding.verdict]}m{verdict}\x1b[0m"
    output.data(f"{verdict} {finding.check:11} {output.said(finding.sentence)}")
    if finding.next:
        output.data(f"{'':20} -> {output.said(finding.next)}")
