"""`python -m farm.cluster.unprivileged FOLDER PROGRAM ...`: the program as anybody but root, as Postgres demands.

Started by an ordinary user it changes nothing. Started by root it becomes another user, who must be able to
enter FOLDER, where the program keeps its data.
"""

import contextlib
import ctypes
import os
import pwd
import signal
import sys
from pathlib import Path

_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1
_NAMES = ("postgres", "nobody")


def main() -> None:
    folder, program = Path(sys.argv[1]), sys.argv[2:]
    os.umask(0o077)
    parent = os.getppid()
    if os.geteuid() == 0:
        _become(_somebody(), folder, Path(program[0]))
        # The change of user has undone what our parent arranged: that we end when it does.
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
            if os.getppid() != parent:
                sys.exit(1)
    os.execv(program[0], program)


def _somebody() -> pwd.struct_passwd:
    for name in _NAMES:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    sys.exit(f"this program refuses to run as root, and there is none of the users {' and '.join(_NAMES)} to be")


def _become(user: pwd.struct_passwd, folder: Path, program: Path) -> None:
    """By name only where the system lets us: then nothing on the disk changes hands and every path stays open."""
    if sys.platform == "linux" and _own_here(folder) and _renamed(user):
        return
    _give_away(folder, user)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    for path in (program, folder):
        if closed := next((str(p) for p in reversed([path, *path.parents]) if not os.access(p, os.X_OK)), None):
            sys.exit(
                f"this program must not run as root, and user {user.pw_name} cannot enter {closed}:"
                f" chmod o+x {closed}, choose another --home, or run the farm as an ordinary user"
            )


def _own_here(folder: Path) -> bool:
    """Whether the data is still ours; given to another user once, it stays his."""
    return folder.stat().st_uid == 0


def _renamed(user: pwd.struct_passwd) -> bool:
    """A user namespace in which our own id reads as that user's."""
    libc = ctypes.CDLL(None)
    if libc.unshare(_CLONE_NEWUSER) != 0:
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user.pw_uid} 0 1")
    Path("/proc/self/gid_map").write_text(f"{user.pw_gid} 0 1")
    return True


def _give_away(folder: Path, user: pwd.struct_passwd) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.stat().st_uid != user.pw_uid:
            os.chown(path, user.pw_uid, user.pw_gid)


if __name__ == "__main__":
    main()
