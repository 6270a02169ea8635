"""Ray's actors as the dispatcher needs them: a named, detached worker per slot."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, cast

import ray
import ray.exceptions

from farm.cluster.gpu_worker import GpuWorker, WorkerStatus
from farm.cluster.node_settings import farm_wide
from farm.cluster.slots import NAMESPACE, Slot, slots_in
from farm.domain.job import Assignment
from farm.settings import Settings

_ray = cast(Any, ray)  # Ray's own types are partial
_OF_THE_NODE = "node has died"  # Ray's words; where they change, the node's absence says the same a little later
_CALLS_AT_ONCE = 16  # watchers of dispatchers that died go on for a while; they must not fill the actor


class ActorDied(Exception):
    """The worker's process is gone, for certain. `with_node`: it did not go alone."""

    def __init__(self, cause: str, with_node: bool = False) -> None:
        super().__init__(cause)
        self.with_node = with_node


class Actors:
    """Connects to a running cluster and never starts one: an implicit head would die with this process."""

    def __init__(self, settings: Settings) -> None:
        assert settings.ray_address, "the supervisor names Ray's head"
        self._settings = settings
        self._kind: Any = _ray.remote(GpuWorker)
        _ray.init(
            address=settings.ray_address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR",
            configure_logging=False,
        )  # fmt: skip

    def close(self) -> None:
        """Leaves the cluster; detached actors stay."""
        _ray.shutdown()

    def slots(self) -> list[Slot]:
        """Of every living node."""
        nodes: list[dict[str, Any]] = _ray.nodes()
        return [slot for node in nodes if node["Alive"] for slot in slots_in(node["Resources"])]

    def employ(self, slot: Slot, on_probation: bool = False) -> Any:
        """The slot's worker: the one that lives there, else a new one, on the slot's node. Returns at once."""
        return self._kind.options(
            name=slot.actor_name, lifetime="detached", get_if_exists=True,
            max_restarts=0, max_task_retries=0, max_concurrency=_CALLS_AT_ONCE,
            num_cpus=0, num_gpus=1 if slot.is_gpu else 0, resources={slot.resource: 1},
            runtime_env={"env_vars": {
                "CUDA_VISIBLE_DEVICES": slot.gpu if slot.is_gpu else "",
                # glibc's arena per thread holds up to 6 % more after one job than after the next (measured).
                "MALLOC_ARENA_MAX": "1",
                # 70 GB of weights and work leave no room for the 5 GB that fixed segments lose (measured).
                "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
            }},
        ).remote(farm_wide(self._settings), slot, on_probation)  # fmt: skip

    def watch(self, actor: Any, seen: int, seconds: float, wake: Callable[[], None]) -> "Future[WorkerStatus]":
        return _future(actor.wait_change.remote(seen, seconds), wake)

    def offer(self, actor: Any, assignment: Assignment, wake: Callable[[], None]) -> "Future[int]":
        return _future(actor.offer.remote(assignment), wake)

    def kill(self, actor: Any) -> None:
        """Also one that is frozen: its node kills it hard after a few seconds."""
        _ray.kill(actor, no_restart=True)


def answer(future: "Future[Any]") -> Any:
    """The result of a finished call. Raises ActorDied; a passing fault of the connection is None."""
    try:
        return future.result()
    except ray.exceptions.ActorUnavailableError:
        return None
    except ray.exceptions.RayActorError as error:
        said = str(error).strip()
        raise ActorDied(said.splitlines()[0], with_node=_OF_THE_NODE in said) from error


def _future(reference: Any, wake: Callable[[], None]) -> "Future[Any]":
    future: Future[Any] = reference.future()

    def done(_: "Future[Any]") -> None:
        wake()

    future.add_done_callback(done)
    return future
