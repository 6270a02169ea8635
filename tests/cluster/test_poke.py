"""A poke wakes whoever listens and harms nobody where no one does."""

from pathlib import Path

import pytest

from farm.cluster.poke import POKE, dispatcher_listens, listen, poke
from farm.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = load_settings(home=tmp_path)
    settings.make_folders()
    return settings


def test_dispatcher_and_agent_hear_a_poke(settings: Settings):
    with listen(settings.dispatcher_socket) as dispatcher, listen(settings.agent_socket) as agent:
        poke(settings)
        dispatcher.settimeout(5)
        agent.settimeout(5)
        assert dispatcher.recv(10) == agent.recv(10) == POKE


def test_a_poke_never_raises_and_never_waits(settings: Settings, tmp_path: Path):
    poke(settings)  # nobody there
    with listen(settings.agent_socket):
        for _ in range(5000):  # more than a socket holds: nobody reads
            poke(settings)
    poke(load_settings(home=tmp_path / "no" / "such" / "folder"))


def test_a_dispatcher_that_was_killed_does_not_listen(settings: Settings):
    assert not dispatcher_listens(settings)
    with listen(settings.dispatcher_socket):
        assert dispatcher_listens(settings)
        assert settings.dispatcher_socket.stat().st_mode & 0o777 == 0o600
    assert settings.dispatcher_socket.exists()  # the file is still there
    assert not dispatcher_listens(settings)
