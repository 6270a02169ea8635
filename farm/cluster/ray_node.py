"""How Ray is started and reached: on loopback, with a token, in a folder and on a port of the farm's own."""

import json
import os
import secrets
import socket
import sys
import sysconfig
from pathlib import Path
from typing import Any

from farm.cluster.device import usable_cores
from farm.cluster.slots import slots_here
from farm.settings import Settings

_OBJECT_STORE = 80_000_000  # bytes; only assignments pass through Ray, videos go to the store


def ray_environment(settings: Settings) -> dict[str, str]:
    """For `ray start` and for everyone who calls ray.init."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.run_dir / "ray-token"),
        # Without it Ray replaces 127.0.0.1 by the machine's address and listens there, for everybody.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Each worker is pinned to its GPU by uuid (CUDA_VISIBLE_DEVICES in its runtime environment).
        "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_START_HOOK": "farm.cluster.ray_node.without_client_server",
        # A dead raylet is noticed after 2-4 s instead of 14.
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "500",
        "RAY_health_check_failure_threshold": "4",
        # No spare workers: ours have an environment of their own, which spares could not serve.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }


def make_token(settings: Settings) -> None:
    """A new secret for every `farm up`, readable by this user only."""
    path = settings.run_dir / "ray-token"
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))


def start_command(settings: Settings, port: int) -> list[str]:
    """`ray start --head --block` for this machine, declaring a resource per slot."""
    slots = slots_here(settings)
    gpus = sum(slot.is_gpu for slot in slots)
    return [
        sys.executable, "-c", "from ray.scripts.scripts import main; main()",
        "start", "--head", "--block", "--disable-usage-stats", "--include-dashboard", "false",
        "--no-monitor", "--include-log-monitor", "false", "--dashboard-agent-listen-port", "0",
        "--node-ip-address", "127.0.0.1", "--port", str(port), "--temp-dir", str(settings.ray_dir),
        "--num-cpus", str(max(usable_cores(), len(slots))), "--num-gpus", str(gpus),
        "--object-store-memory", str(_OBJECT_STORE),
        "--resources", json.dumps({slot.resource: 1 for slot in slots}),
    ]  # fmt: skip


def without_client_server(params: Any, head: bool) -> None:
    """Ray's own hook on `ray start`: no "ray client" server, which nobody here speaks to."""
    params.ray_client_server_port = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def import_path() -> str:
    """PYTHONPATH with which a child finds this very farm, installed or in a checkout."""
    here = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH", "")
    if here == sysconfig.get_path("purelib"):
        return inherited
    return os.pathsep.join(part for part in (here, inherited) if part)
