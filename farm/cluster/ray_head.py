"""The head of Ray outlives its central process (GCS): what that knows lies on disk, and it is started again.

Without this, `ray start` ends the whole node when its GCS dies, and every worker of every node with it. Nothing
public says how in Ray 2.60; tests/cluster/test_up.py fails where a later version differs.
"""

import importlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

_SERIES = 60.0  # seconds within which so many deaths mean that starting it again is no help
_ENOUGH = 5


def outlive_the_gcs(folder: Path) -> None:
    """In the process of `ray start --head`, before it starts anything. `folder`: of this run's GCS alone."""
    # A head that starts anew is a new cluster: actors and nodes of the one before would only be ghosts in it.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    os.environ.update({"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(folder)})
    node: Any = importlib.import_module("ray._private.node").Node
    gcs = "gcs_server"
    real = node.dead_processes
    deaths: list[float] = []

    def dead_processes(self: Any) -> list[Any]:
        """Those that cannot be helped; asked every second by `ray start --block`."""
        dead: list[Any] = real(self)
        if not any(kind == gcs for kind, _ in dead):
            return dead
        deaths.append(time.monotonic())
        if len(deaths) >= _ENOUGH and deaths[-1] - deaths[-_ENOUGH] < _SERIES:
            return dead
        print("the GCS died and is started again", file=sys.stderr, flush=True)
        self.kill_gcs_server(check_alive=False)  # forgets it
        self.start_gcs_server()
        return [one for one in dead if one[0] != gcs]

    node.dead_processes = dead_processes
