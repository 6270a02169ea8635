"""`farm up --background`: the same `farm up` in a session of its own; returns once the farm is ready."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping

from farm.cli import output
from farm.domain.errors import Exit
from farm.settings import Settings


def up_in_background(settings: Settings, options: Mapping[str, object]) -> int:
    """Start the farm and wait until it is ready. Returns an exit code; what went wrong was printed."""
    from farm.cluster import supervisor

    flags: list[str] = []
    environment = dict(os.environ)
    for name, value in options.items():
        if name == "auth" and value is not None:
            environment["FARM_AUTH"] = str(value)  # not in `ps` a second time
        elif value is not None:
            flags += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    settings.make_folders()
    log = settings.log_dir / "up.log"
    with log.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "farm.cli.main", "up", *flags],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    while child.poll() is None:
        status = supervisor.status(settings)
        if status.pid == child.pid and status.ready:
            output.data(f"Running on local URL: {status.url}")
            output.data(f"logs: {settings.log_dir}   stop it: farm down")
            return Exit.OK
        time.sleep(0.1)
    print(log.read_text(encoding="utf-8", errors="replace").strip(), file=sys.stderr)
    return child.returncode or Exit.FAILED
