"""Processes of this machine: is it still that one, what is left of a session, who holds a port."""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_PROC = Path("/proc")


def started(pid: int) -> int | None:
    """When the process began (ticks since boot; 0 where the system does not say), None if it is gone."""
    fields = _stat(pid)
    if fields is not None:
        return None if fields[0] in "ZX" else int(fields[19])
    if _PROC.is_dir():
        return None
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        return 0
    return None


def boot() -> str:
    """Which start of this machine it is: pids and ticks of another one mean nothing. "" where nobody says."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def name(pid: int) -> str | None:
    """The first 15 characters of the program's name; None if it is gone."""
    try:
        return (_PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return None


def session_members(leader: int) -> list[int]:
    """Living processes of the session that `leader` opened, whether or not it lives."""
    members: list[int] = []
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        fields = _stat(int(entry.name)) if entry.name.isdecimal() else None
        if fields is not None and int(fields[3]) == leader and fields[0] not in "ZX":
            members.append(int(entry.name))
    return members


def marked(variable: str, value: str) -> list[int]:
    """Living processes of this user that were started with this in their environment."""
    wanted, found = f"{variable}={value}".encode(), list[int]()
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # gone, or another user's
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def own_children() -> list[int]:
    """Living or dead processes whose parent is this one, orphans that were handed to it included."""
    found: list[int] = []
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        fields = _stat(int(entry.name)) if entry.name.isdecimal() else None
        if fields is not None and int(fields[1]) == os.getpid():
            found.append(int(entry.name))
    return found


def end_session(leader: int, patience: float = 0.0) -> None:
    """SIGTERM to every member, and after `patience` seconds SIGKILL to those that are left, until none is."""
    if patience > 0:
        send(session_members(leader), signal.SIGTERM)
        wait_until(lambda: not session_members(leader), patience)
    with contextlib.suppress(OSError):  # where there is no /proc, its first group is what we can reach
        os.killpg(leader, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (members := session_members(leader)) and time.monotonic() < deadline:
        send(members, signal.SIGKILL)
        reap_orphans(set())
        time.sleep(0.02)


def send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):  # gone in the meantime
            os.kill(pid, number)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def adopt_orphans() -> None:
    """Grandchildren whose parent dies become ours, so that none escapes (Linux; elsewhere init gets them)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(but: set[int]) -> None:
    """Takes the exit status of adopted processes; those in `but` are somebody else's to wait for."""
    for pid in own_children():
        if pid not in but:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def die_with_parent() -> Callable[[], None]:
    """For a child between fork and exec: SIGTERM when its parent dies, however that happens (Linux)."""
    if sys.platform != "linux":
        return lambda: None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()  # found before the fork: no locks after it

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return arm


def port_owner(port: int) -> str | None:
    """ "pid 123 (python -m http.server)", if this user may see who listens there."""
    inodes: set[str] = set()
    for table in (_PROC / "net/tcp", _PROC / "net/tcp6"):
        with contextlib.suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:  # 0A: listening
                    inodes.add(f"socket:[{fields[9]}]")
    for entry in _PROC.iterdir() if inodes else ():
        if entry.name.isdecimal() and inodes & _open_files(entry):
            return f"pid {entry.name} ({_command(entry)})"
    return None


def _open_files(process: Path) -> set[str]:
    files: set[str] = set()
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                files.add(os.readlink(descriptor))
    return files


def _command(process: Path) -> str:
    with contextlib.suppress(OSError):
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        return " ".join(words).strip()[:80]
    return "unknown command"


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on: state, ppid, pgrp, session, ..., starttime is [19]."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
