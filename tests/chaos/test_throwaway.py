"""Farms for a trial: they say why they do not start, and nothing of them stays."""

from pathlib import Path

import pytest

from farm.cluster import processes
from farm.settings import load_settings
from farm.throwaway import Machine, NeverHappened


def test_one_that_does_not_start_says_why(tmp_path: Path):
    machine = Machine(load_settings(home=tmp_path), ["up", "--workers", "many"])
    with pytest.raises(NeverHappened, match="'many' is not a valid integer") as caught:
        machine.start()
    assert caught.value.next
    assert machine.over
    machine.end()
    assert processes.marked("FARM_HOME", str(tmp_path)) == []
