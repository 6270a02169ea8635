"""`farm up --with-servers`: a Postgres and a SeaweedFS that live and end with the farm, and remember."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from farm.cluster import ray_node, servers
from farm.cluster.processes import session_members, started
from farm.cluster.supervisor import down, status, up
from farm.db import jobs
from farm.db.engine import open_database
from farm.domain.errors import FarmError, InvalidRequest
from farm.settings import Settings, load_settings
from farm.storage.store import open_store
from tests.cluster.conftest import ROOT, until
from tests.db.conftest import submit_one

# In place of ray, API, agent and dispatcher: an API that tells what a child is told.
_UP = """
import json, os, sys
from farm.cluster.children import ChildSpec
from farm.cluster.supervisor import up
from farm.settings import load_settings
api = '''
import json, os
from http.server import BaseHTTPRequestHandler, HTTPServer
class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        told = {n: v for n, v in os.environ.items() if n.startswith(("FARM_", "AWS_"))}
        self.wfile.write(json.dumps(told).encode())
HTTPServer(("127.0.0.1", int(os.environ["FARM_PORT"])), Answer).serve_forever()
'''
up(load_settings(), children=lambda settings: [ChildSpec("api", [sys.executable, "-c", api], 3.0)])
"""


class Up:
    def __init__(self, home: Path) -> None:
        self.settings = load_settings(home=home, port=ray_node.free_port(), with_servers=True)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        own = load_settings(home=self.settings.home, port=self.settings.port, with_servers=True)
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "FARM_HOME": str(own.home), "FARM_PORT": str(own.port),
            "FARM_WITH_SERVERS": "true",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", _UP], env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            assert self._process.stderr is not None
            pytest.fail(self._process.stderr.read())

    def told(self) -> dict[str, str]:
        """The environment of the farm's children."""
        with urllib.request.urlopen(self.settings.url) as answer:
            return json.load(answer)

    def pids(self) -> dict[str, int]:
        return {child.name: child.pid for child in status(self.settings).children}

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        down(self.settings)
        assert self._process is not None
        self._process.wait(30)


@pytest.fixture
def farm(tmp_path: Path):
    farm = Up(tmp_path)
    farm.start()
    yield farm
    farm.end()


def test_they_live_end_and_remember(farm: Up, monkeypatch: pytest.MonkeyPatch):
    told = farm.told()
    assert list(farm.pids()) == ["postgres", "seaweedfs", "api"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, told[name])
    db, store = open_database(told["FARM_DATABASE_URL"]), open_store(told["FARM_STORE"])
    kept = submit_one(db)
    store.put_bytes("kept", b"whole")

    # Each comes back by itself, on its port, with what it had.
    for name in ("postgres", "seaweedfs"):
        before = farm.pids()[name]
        os.kill(before, signal.SIGKILL)
        until(f"{name} is started anew", lambda n=name, b=before: farm.pids().get(n) not in (None, b))
    until("both answer", lambda: _works(db, store))
    assert jobs.get(db, kept.id) == kept
    assert b"".join(store.open("kept")) == b"whole"

    # The supervisor killed: nobody is left behind, and the next one is no stranger to its data.
    pids = farm.pids()
    farm.kill()
    farm.start()
    assert not [pid for pid in pids.values() if started(pid) is not None]
    assert farm.told()["FARM_DATABASE_URL"] == told["FARM_DATABASE_URL"]
    assert jobs.get(db, kept.id) == kept
    assert b"".join(store.open("kept")) == b"whole"
    db.close()

    everybody = [pid for leader in farm.pids().values() for pid in session_members(leader)]
    assert down(farm.settings).was_running
    assert [pid for pid in everybody if started(pid) is not None] == []
    ports = json.loads((farm.settings.home / "servers" / "servers.json").read_text())["ports"]
    assert [path for port in ports.values() for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")] == []


def test_their_secrets_are_random_private_and_in_no_log(farm: Up, tmp_path: Path):
    memory = tmp_path / "servers" / "servers.json"
    assert memory.stat().st_mode & 0o777 == 0o600
    secrets = [value for value in json.loads(memory.read_text()).values() if isinstance(value, str)]
    assert len(set(secrets)) == 3
    logs = "".join(path.read_text(errors="replace") for path in (tmp_path / "logs").iterdir())
    commands = "".join(
        Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        for leader in farm.pids().values()
        for pid in session_members(leader)
    )
    assert not [secret for secret in secrets if secret in logs + commands]
    listening = {name: _addresses(pid) for name, pid in farm.pids().items()}
    assert all(addresses == {"0100007F"} for addresses in listening.values()), listening


def test_another_database_beside_them_is_refused(tmp_path: Path):
    other = load_settings(
        home=tmp_path, port=ray_node.free_port(), with_servers=True, database_url="postgresql://h/d"
    )
    with pytest.raises(InvalidRequest, match="another one is set"):
        up(other)


def test_without_their_wheels_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(servers.importlib.util, "find_spec", lambda name: None)
    settings: Settings = load_settings(home=tmp_path, port=ray_node.free_port(), with_servers=True)
    with pytest.raises(servers.ServerMissing) as caught:
        up(settings)
    assert "turbofarm[tryout]" in caught.value.next
    assert not status(settings).running


def test_a_port_that_somebody_took_is_replaced_and_the_rest_stays(tmp_path: Path):
    before = servers.Servers.below(tmp_path)
    with servers.socket.socket() as taken:
        taken.bind(("127.0.0.1", before.postgres.port))
        taken.listen()
        after = servers.Servers.below(tmp_path)
    assert after.postgres.port != before.postgres.port
    assert (after.postgres.password, after.seaweedfs) == (before.postgres.password, before.seaweedfs)


def _works(db, store) -> bool:
    try:
        jobs.counts(db)
        return b"".join(store.open("kept")) == b"whole"
    except FarmError:
        return False


def _addresses(leader: int) -> set[str]:
    """The addresses that a process listens on, as /proc/net spells them."""
    links = set()
    for descriptor in Path(f"/proc/{leader}/fd").iterdir():
        try:
            links.add(os.readlink(descriptor))
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in links:
                found.add(fields[1].rpartition(":")[0])
    return found
