"""A Postgres and a SeaweedFS of the test run's own, which tests may kill and start again."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from farm.cluster import processes, servers

ROOT = Path(__file__).resolve().parents[1]
# A power cut is not among the things that these tests bring about.
CARELESS = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "autovacuum=off",
    "file_copy_method=clone",
)


def until(what: str, condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {seconds} s")
        time.sleep(0.01)


class Server:
    """A server process in a folder that any user can reach."""

    def __init__(self, server: Any, folder: Path, options: Sequence[str] = ()) -> None:
        self.server = server  # of farm.cluster.servers
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Again too: on the same port, with the data it had."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if isinstance(self.server, servers.SeaweedFS):
            environment |= self.server.credentials
        command = self.server.command(*self._options)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until("the server answers", self._answers)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Its sockets stay open and the system takes what is sent to them; nobody answers."""
        assert self._process is not None
        stopped: list[int] = []
        try:
            while more := [pid for pid in family(self._process.pid) if pid not in stopped]:
                processes.send(more, signal.SIGSTOP)
                stopped += more
            yield
        finally:
            processes.send(stopped, signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        if isinstance(self.server, servers.SeaweedFS):
            self.server.sweep()
        shutil.rmtree(self._folder)

    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(self.log()[-2000:])
        return self.server.answers()


def family(parent: int) -> list[int]:
    """This process and its children."""
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True).stdout
    return [parent, *map(int, children.split())]


def private_postgres(*options: str) -> Server:
    folder, found = _made()
    return Server(found.postgres, folder, options)


def private_seaweedfs() -> Server:
    folder, found = _made(postgres=False)
    return Server(found.seaweedfs, folder)


def _made(postgres: bool = True) -> tuple[Path, servers.Servers]:
    # Not below pytest's own folder: only this user can enter that, and Postgres may have to be another.
    folder = Path(tempfile.mkdtemp(prefix="farm-test-"))
    folder.chmod(0o755)
    found = servers.Servers.below(folder)
    (found.postgres if postgres else found.seaweedfs).make()
    return folder, found
