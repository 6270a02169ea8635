"""Options: which source wins, and paths that sockets can be bound at."""

import os
import socket
from pathlib import Path

import pytest

from farm.domain.errors import FolderUnusable, InvalidRequest
from farm.settings import load_settings


@pytest.fixture(autouse=True)
def _no_farm_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("FARM_")]:
        monkeypatch.delenv(name)


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "farm.toml").write_text('port = 1001\nmodel = "from-file"\nworkers = 3\n')
    monkeypatch.setenv("FARM_HOME", str(tmp_path))
    monkeypatch.setenv("FARM_MODEL", "from-environment")
    monkeypatch.setenv("FARM_PORT", "1002")
    settings = load_settings(port=1003, host=None)
    assert (settings.port, settings.model, settings.workers) == (1003, "from-environment", 3)
    assert settings.host == "127.0.0.1"
    assert settings.database_url == f"sqlite:///{tmp_path}/farm.db"


def test_a_child_reads_the_same_settings_from_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = load_settings(home=tmp_path, port=1003, lease_ttl=9.0, renew_every=2, workers=0)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_a_child_in_another_folder_means_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    settings = load_settings(home="farm", store="videos", database_url="sqlite:///jobs.db")
    assert settings.home == tmp_path / "farm"
    assert settings.store == str(tmp_path / "videos")
    assert settings.database_url == f"sqlite:///{tmp_path}/jobs.db"


@pytest.mark.parametrize(
    "text", ["prot = 7861\n", "port = 'x'\n", "port = \n", "lease_ttl = 3.0\n", "log_level = 'loud'\n"]
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, text: str):
    (tmp_path / "farm.toml").write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        load_settings(home=tmp_path)
    assert "\n" not in caught.value.message
    assert caught.value.next


def test_a_socket_can_be_bound_below_a_home_of_any_length(tmp_path: Path):
    settings = load_settings(home=tmp_path / ("x" * 120))
    settings.make_folders()
    assert settings.socket_dir.stat().st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(settings.agent_socket))
    settings.agent_socket.unlink()
    assert settings.socket_dir != load_settings(home=tmp_path / ("y" * 120)).socket_dir
    settings.remove_fallback_folders()
    assert not settings.socket_dir.parent.exists()
    assert settings.run_dir.exists()


def test_a_home_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "home").write_text("")
    with pytest.raises(FolderUnusable):
        load_settings(home=tmp_path / "home").make_folders()


def test_a_store_in_a_bucket_finds_its_endpoint_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FARM_S3_ENDPOINT", "http://127.0.0.1:8333")
    settings = load_settings(home=tmp_path, store="s3://farm/studio?region=eu-1")
    assert settings.store == "s3://farm/studio?region=eu-1&endpoint=http://127.0.0.1:8333"
    assert load_settings(home=tmp_path, store=settings.store).store == settings.store
    assert load_settings(home=tmp_path).store == str(tmp_path / "store"), "a folder has none"


def test_a_password_is_in_no_error_and_no_repr(tmp_path: Path):
    url = "postgresql://farm:hunter2@db/farm"
    settings = load_settings(home=tmp_path, database_url=url)
    assert settings.database_url == url
    assert "hunter2" not in repr(settings)
    with pytest.raises(InvalidRequest) as caught:
        load_settings(home=tmp_path, database_url=url, port=0)
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"
