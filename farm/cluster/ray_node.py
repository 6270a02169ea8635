"""How Ray is started, joined and reached: with a token, in a folder and on a port of the farm's own.

Ray knows two ways to listen: with the address 127.0.0.1 on loopback only, with any other on every interface.
"""

import importlib
import json
import os
import secrets
import socket
import stat
import sys
import sysconfig
from pathlib import Path
from typing import Any

from farm.cluster import ray_head
from farm.cluster.device import usable_cores
from farm.cluster.slots import slots_here, slots_in
from farm.domain.errors import InvalidRequest
from farm.settings import Settings

LOOPBACK = "127.0.0.1"
_OBJECT_STORE = 80_000_000  # bytes; only assignments pass through Ray, videos go to the store


def ray_environment(settings: Settings) -> dict[str, str]:
    """For `ray start` and for everyone who calls ray.init."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.ray_token),
        # With "1" Ray replaces 127.0.0.1 by the machine's address and listens there, for everybody.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if settings.listen == LOOPBACK else "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Each worker is pinned to its GPU by uuid (CUDA_VISIBLE_DEVICES in its runtime environment).
        "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_START_HOOK": "farm.cluster.ray_node.before_start",
        # A dead raylet is noticed after 2-4 s instead of 14.
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "500",
        "RAY_health_check_failure_threshold": "4",
        # What a worker has started dies with it; what left its group is found by its successor (vacancy.py).
        "RAY_process_group_cleanup_enabled": "1",
        # No spare workers: ours have an environment of their own, which spares could not serve.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }


def make_token(settings: Settings) -> None:
    """A new secret for every `farm up`, readable by this user only."""
    settings.ray_token.unlink(missing_ok=True)
    _write_token(settings.ray_token)


def keep_token(settings: Settings) -> bool:
    """The secret of a farm of several machines: made once, so that its nodes find back. True: it is new."""
    if settings.ray_token.exists():
        check_token(settings)
        return False
    _write_token(settings.ray_token)
    return True


def check_token(settings: Settings) -> None:
    """Raises InvalidRequest if the token file cannot be read, holds nothing, or is open to other users."""
    path = settings.ray_token
    how = f"copy the server's token file to {path} (scp keeps it out of shell histories), or name it: --token-file"
    try:
        text, mode = path.read_text(encoding="ascii", errors="replace").strip(), path.stat().st_mode
    except OSError as error:
        raise InvalidRequest(
            f"the token file {path} cannot be read: {error.strerror}", how, field="token_file"
        ) from error
    if not text:
        raise InvalidRequest(f"the token file {path} is empty", how, field="token_file")
    if stat.S_IMODE(mode) & 0o077:
        raise InvalidRequest(
            f"the token file {path} can be read by other users", f"run: chmod 600 {path}", field="token_file"
        )


def _write_token(path: Path) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))


def start_command(settings: Settings, port: int) -> list[str]:
    """`ray start --head --block` for this machine, declaring a resource per slot."""
    head = ["--head", "--port", str(port), "--include-dashboard", "false", "--no-monitor"]
    return _ray_start(settings, head)


def join_command(settings: Settings) -> list[str]:
    """`ray start --block` for a machine that joins the head at `ray_address`."""
    return _ray_start(settings, ["--address", settings.ray_address])


def _ray_start(settings: Settings, role: list[str]) -> list[str]:
    slots = slots_here(settings)
    gpus = sum(slot.is_gpu for slot in slots)
    return [
        sys.executable, "-c", "from ray.scripts.scripts import main; main()",
        "start", *role, "--block", "--disable-usage-stats",
        "--include-log-monitor", "false", "--dashboard-agent-listen-port", "0",
        "--node-ip-address", settings.listen, "--temp-dir", str(settings.ray_dir),
        "--num-cpus", str(max(usable_cores(), len(slots))), "--num-gpus", str(gpus),
        "--object-store-memory", str(_OBJECT_STORE),
        "--resources", json.dumps({slot.resource: 1 for slot in slots}),
    ]  # fmt: skip


def before_start(params: Any, head: bool) -> None:
    """Ray's own hook on `ray start`, in that process."""
    params.ray_client_server_port = None  # the "ray client" server, which nobody here speaks to
    if head:
        ray_head.outlive_the_gcs(Path(params.temp_dir) / "gcs")
        # A head that was killed has left its address there; where nodes still look for it, Ray would take it
        # for a running one and refuse to start.
        (Path(params.temp_dir) / "ray_current_cluster").unlink(missing_ok=True)
    elif params.node_ip_address == LOOPBACK:
        _allow_a_cluster_on_loopback()


def _allow_a_cluster_on_loopback() -> None:
    """A second node on 127.0.0.1: Ray takes its switch for loopback as "one node only", and would else go public.

    Nothing public says so in Ray 2.60; tests/cluster/test_nodes.py fails where a later version differs.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    services: Any = importlib.import_module("ray._private.services")

    def unchanged(host: str) -> str:
        return host

    constants.ENABLE_RAY_CLUSTER = True
    services.resolve_ip_for_localhost = unchanged


def address_here(settings: Settings) -> str | None:
    """Of the Ray that runs on this folder, from another process than the farm's own."""
    try:
        return (settings.ray_dir / "ray_current_cluster").read_text().strip() or None
    except OSError:
        return None


def as_started(settings: Settings, address: str) -> Settings:
    """The settings under which that Ray was started, as far as reaching it depends on them."""
    own = settings.run_dir / "ray-token"  # of `farm up`; that of several machines outlives a run
    token = own if own.exists() else Path(settings.token_file or shared_token(settings))
    return settings.model_copy(update={"listen": address.rpartition(":")[0], "token_file": str(token)})


def shared_token(settings: Settings) -> Path:
    """Where the secret of a farm of several machines lies, unless another file is named."""
    return settings.home / "farm-token"


def tell_nodes(address: str) -> None:
    """Prints what Ray says of its nodes, as JSON. For a process of its own, which this makes a driver of Ray."""
    ray: Any = importlib.import_module("ray")
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    nodes = [
        {
            "address": node["NodeManagerAddress"], "alive": node["Alive"],
            "slots": [slot.resource for slot in slots_in(node["Resources"])],
        }
        for node in ray.nodes()
    ]  # fmt: skip
    print(json.dumps({"nodes": nodes}))


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
