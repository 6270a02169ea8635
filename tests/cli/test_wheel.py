"""The client as people get it: a wheel, alone in an environment of its own, with nothing but click beside it."""

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from farm.domain.version import VERSION
from tests.cli.command import ROOT
from tests.served.farm import Served


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`farm` as `pipx install turbofarm-*.whl` leaves it; click comes from here, so that no network is needed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, cwd=folder)
    (wheel,) = folder.glob("turbofarm-*.whl")
    assert wheel.name.startswith(f"turbofarm-{VERSION}-py3-none-any"), "for every system"
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(packages)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    import click

    (packages / "click").symlink_to(Path(click.__file__).parent)
    return folder / "venv" / "bin" / "python"


def test_the_versions_agree() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


def test_the_client_works_with_click_alone(installed: Path, served: Served, tmp_path: Path) -> None:
    environment = {**{k: v for k, v in os.environ.items() if k not in {"PYTHONPATH"}}, "FARM_URL": served.url}

    def farm(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [str(installed), "-I", "-c", "from farm.cli.main import main; main()", *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)

    assert farm("--version").stdout.strip().endswith(VERSION)
    job = farm("submit", "一只红色的风筝", "--seed", "7")
    assert job.returncode == 0, job.stderr
    assert "一只红色的风筝" in farm("show", job.stdout.strip()).stdout
    refused = farm("up")
    assert (refused.returncode, "error server_not_installed" in refused.stderr) == (1, True), refused.stderr
