"""Where a worker can run: a slot per GPU of a node, which Ray knows as the resource `gpu:<uuid>`."""

from dataclasses import dataclass

from farm.cluster.device import usable_cores
from farm.gpus import Gpu, visible
from farm.settings import Settings

NAMESPACE = "turbofarm"


@dataclass(frozen=True)
class Slot:
    """`resource` names the device to Ray: "gpu:<uuid>", or "cpu:<node>:<n>" where there is no GPU."""

    resource: str

    @property
    def is_gpu(self) -> bool:
        return self.resource.startswith("gpu:")

    @property
    def gpu(self) -> str:
        """The worker's device in the database: the bare uuid, or `cpu:<node>:<n>`."""
        return self.resource.removeprefix("gpu:")

    @property
    def actor_name(self) -> str:
        return f"worker-{self.resource}"

    @property
    def log_name(self) -> str:
        return "worker-" + self.gpu.removeprefix("cpu:").replace(":", "-").replace("/", "-")


def slots_here(settings: Settings) -> list[Slot]:
    """One per visible GPU, at most `workers` of them; without a GPU `workers` CPU slots, one by default."""
    gpus = visible()
    if gpus:
        return [Slot(f"gpu:{gpu.uuid}") for gpu in gpus[: settings.workers]]
    count = 1 if settings.workers is None else settings.workers
    return [Slot(f"cpu:{settings.node_name}:{n}") for n in range(count)]


def slots_in(resources: dict[str, float]) -> list[Slot]:
    """The slots among a Ray node's resources."""
    return [Slot(name) for name in sorted(resources) if name.startswith(("gpu:", "cpu:"))]


def gpu_of(slot: Slot) -> Gpu | None:
    return next((gpu for gpu in visible() if gpu.uuid == slot.gpu), None) if slot.is_gpu else None


def threads_for(slot: Slot, settings: Settings) -> int:
    """Tensor threads of the slot's worker: CPU workers share the cores, GPU workers need few."""
    sharing = 1 if slot.is_gpu else max(1, settings.workers or 1)
    return max(1, usable_cores() // sharing)
