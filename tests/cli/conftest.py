"""The fixtures of `tests.served`, and the real command pointed at that farm."""

from pathlib import Path

import pytest

from tests.cli.command import Command
from tests.served.farm import Served, machine, migrated_bytes, served, services

__all__ = ["machine", "migrated_bytes", "served", "services"]


@pytest.fixture
def farm(served: Served, tmp_path: Path) -> Command:
    return Command.of(served, tmp_path)
