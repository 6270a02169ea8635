"""What `farm serve` and `farm worker` refuse before anything starts, and what they say then."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farm.cluster import front_door, nodes, ray_node
from farm.db.engine import migrate
from farm.domain.errors import FarmError, FarmUnreachable, InvalidRequest, PortInUse, SchemaOutdated
from farm.settings import Settings, load_settings


def never(settings: Settings) -> Any:
    pytest.fail("it was about to start processes")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Something that listens, on this machine."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def node(tmp_path: Path) -> Settings:
    """All that a node of this machine needs."""
    migrate(f"sqlite:///{tmp_path}/farm.db")
    (tmp_path / "store").mkdir()
    token = tmp_path / "token"
    token.write_text("0" * 64)
    token.chmod(0o600)
    return load_settings(
        home=tmp_path / "node", database_url=f"sqlite:///{tmp_path}/farm.db", store=str(tmp_path / "store"),
        token_file=str(token),
    )  # fmt: skip


def refused(kind: type[FarmError], settings: Settings, join: str, *words: str) -> None:
    with pytest.raises(kind) as caught:
        nodes.work(settings, join, children=never)
    assert all(word in f"{caught.value.message} | {caught.value.next}" for word in words), caught.value
    assert caught.value.next
    assert not (settings.run_dir / "ray").exists() or not any((settings.run_dir / "ray").iterdir())


def changed(settings: Settings, **options: Any) -> Settings:
    return settings.model_copy(update=options)


def test_the_page_is_not_served_to_strangers(tmp_path: Path):
    for host in ("0.0.0.0", "::", "10.0.0.5", "render-01"):
        with pytest.raises(front_door.NoSignIn, match="without sign-in") as caught:
            nodes.serve(load_settings(home=tmp_path / "home", host=host), children=never)
        assert "ssh -L 7860" in caught.value.next
    assert not (tmp_path / "home").exists()


def test_a_sqlite_file_is_not_offered_to_other_machines(tmp_path: Path):
    with pytest.raises(InvalidRequest, match="SQLite") as caught:
        nodes.serve(load_settings(home=tmp_path / "home", listen="10.0.0.5"), children=never)
    assert "postgresql://" in caught.value.next
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("port", [10002, 19999])
def test_a_port_that_ray_gives_to_its_workers_is_refused_by_name(tmp_path: Path, port: int):
    settings = load_settings(home=tmp_path / "home", port=ray_node.free_port(), ray_port=port)
    with pytest.raises(InvalidRequest, match=f"port {port} to its own workers") as caught:
        nodes.serve(settings)
    assert "--ray-port" in caught.value.next


def test_a_port_of_rays_that_is_taken_is_said_with_its_flag(tmp_path: Path, server: str):
    settings = load_settings(
        home=tmp_path / "home", port=ray_node.free_port(), ray_port=int(server.rpartition(":")[2])
    )
    with pytest.raises(PortInUse) as caught:
        nodes.serve(settings, children=never)
    assert "--ray-port" in caught.value.next


def test_the_token_of_a_server_is_made_once_and_for_its_user_only(tmp_path: Path):
    settings = load_settings(home=tmp_path, token_file=str(tmp_path / "token"))
    assert ray_node.keep_token(settings)
    first = settings.ray_token.read_text()
    assert not ray_node.keep_token(settings)
    assert settings.ray_token.read_text() == first
    assert len(first) == 64
    assert settings.ray_token.stat().st_mode & 0o777 == 0o600


def test_how_to_join_shows_no_secret(tmp_path: Path):
    url = "postgresql://farm:geheim@10.0.0.4/farm"
    for listen in ("127.0.0.1", "10.0.0.5"):
        settings = load_settings(
            home=tmp_path,
            listen=listen,
            database_url=url,
            token_file=str(tmp_path / "t"),
            ray_address=f"{listen}:7861",
        )
        said = nodes.how_to_join(settings)
        assert "geheim" not in said
        assert f"farm worker --join {listen}:7861 --token-file" in said
    assert "every interface" in said


def test_a_node_without_a_good_token_file_is_told_how_to_get_one(node: Settings, server: str, tmp_path: Path):
    refused(InvalidRequest, changed(node, token_file=str(tmp_path / "none")), server, "none", "--token-file")
    (tmp_path / "token").write_text("\n")
    refused(InvalidRequest, node, server, "is empty")
    (tmp_path / "token").write_text("0" * 64)
    (tmp_path / "token").chmod(0o644)
    refused(InvalidRequest, node, server, "other users", "chmod 600")


def test_a_node_needs_the_servers_database_and_store(node: Settings, server: str, tmp_path: Path):
    own = changed(node, database_url=f"sqlite:///{node.home}/farm.db")
    refused(InvalidRequest, own, server, "there is no database", "FARM_DATABASE_URL")
    (tmp_path / "empty.db").touch()
    refused(SchemaOutdated, changed(node, database_url=f"sqlite:///{tmp_path}/empty.db"), server, "is empty")
    refused(
        InvalidRequest, changed(node, store=str(node.home / "store")), server, "there is no store", "FARM_STORE"
    )
    assert not (node.home / "farm.db").exists()


def test_a_sqlite_file_does_not_reach_another_machine(node: Settings):
    refused(InvalidRequest, node, "10.1.2.3", "another machine", "SQLite", "Postgres")


@pytest.mark.parametrize("join", ["", ":7861", "host:", "host:port", "host:70000", "host:0"])
def test_a_server_that_is_no_address_is_refused(node: Settings, join: str):
    refused(InvalidRequest, node, join, "HOST:PORT")


def test_a_server_that_does_not_answer_is_said(node: Settings):
    refused(FarmUnreachable, node, f"127.0.0.1:{ray_node.free_port()}", "no farm server answers", "farm serve")


def test_a_node_with_nothing_to_render_with_is_refused(node: Settings, server: str):
    refused(InvalidRequest, changed(node, workers=0), server, "nothing to render with")


def test_two_nodes_of_one_machine_have_two_names(node: Settings, server: str, tmp_path: Path):
    names: list[str] = []

    def note(settings: Settings) -> Any:
        names.append(settings.node_name)
        raise FarmUnreachable("far enough")

    for home in ("one", "two"):
        with pytest.raises(FarmUnreachable, match="far enough"):
            nodes.work(changed(node, home=tmp_path / home), server, children=note)
    assert len(set(names)) == 2
    assert all(name.startswith(socket.gethostname()) for name in names)
