"""A program that refuses to run as root runs as somebody else, with its folder, or says why it cannot."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT

AS_ROOT = pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root has to become somebody else")
# The other way is for where the system grants no user namespaces, as most containers do not.
WAYS = {
    "namespace": "",
    "another user": "unprivileged._renamed = lambda user: False;",
}
WRITES = "import os; open('written', 'w').close(); print(os.geteuid(), oct(os.umask(0)))"


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that others can reach: pytest's own is private."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        data = Path(made) / "data"
        data.mkdir()
        yield data


def run(way: str, folder: Path, *program: str) -> "subprocess.CompletedProcess[str]":
    code = f"from farm.cluster import unprivileged; {WAYS[way]} unprivileged.main()"
    command = [sys.executable, "-c", code, str(folder), *program]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )


@AS_ROOT
@pytest.mark.parametrize("way", WAYS)
def test_it_is_not_root_and_can_write_its_folder(folder: Path, way: str):
    done = run(way, folder, sys.executable, "-c", WRITES)
    if done.returncode != 0 and "cannot enter" in done.stderr:
        pytest.skip(f"this Python is closed to other users: {done.stderr}")
    user, mask = done.stdout.split()
    assert user != "0"
    assert mask == "0o77"
    assert (folder / "written").exists()


@AS_ROOT
def test_a_folder_that_nobody_else_can_enter_is_named_with_what_helps(folder: Path):
    folder.parent.chmod(0o700)
    done = run("another user", folder, "/bin/true")
    assert done.returncode != 0
    assert f"cannot enter {folder.parent}" in done.stderr
    assert "--home" in done.stderr


def test_an_ordinary_user_stays_who_he_is(folder: Path):
    if os.geteuid() == 0:
        pytest.skip("we are root")
    done = run("namespace", folder, sys.executable, "-c", WRITES)
    assert done.stdout.split()[0] == str(os.geteuid())
