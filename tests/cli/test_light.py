"""The client is light: what it loads decides how fast it starts, and where it can be installed."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "sqlalchemy", "pydantic", "httpx", "fastapi", "numpy", "PIL", "rich", "jinja2", "av")
MODULES = [
    "main", "submit", "watch", "jobs", "batch", "download", "farm", "client", "output", "images", "models",
    "transfer", "nodes", "doctor", "prune", "plan", "bench", "config", "profiles", "token", "queue",
]  # fmt: skip


@pytest.mark.parametrize("module", [*MODULES, "inspect", "top", "completion", "filenames", "moments", "chinese"])
def test_the_client_path_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, farm.cli.{module}; print([m for m in {HEAVY} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_help_loads_no_command() -> None:
    code = (
        "import sys; sys.argv = ['farm', '--help']\n"
        "import farm.cli.main as m\n"
        "try: m.main()\n"
        "except SystemExit: pass\n"
        "print([n for n in sys.modules if n.startswith('farm.cli.')], file=sys.stderr)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "submit" in said.stdout
    assert set(eval(said.stderr)) == {"farm.cli.main", "farm.cli.config", "farm.cli.output"}
