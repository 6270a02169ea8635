"""What is known of the farm when somebody asks why a job is where it is, and which workers could take it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from farm.domain.job import Dependency, Job, Requires
from farm.domain.states import Wish
from farm.domain.worker import Quarantine, Worker
from farm.scheduling.lanes import LaneView, Reason
from farm.scheduling.phrases import gib

SILENT = 30.0  # seconds without a heartbeat after which a worker is not counted on


@dataclass(frozen=True)
class Surroundings:
    """position: jobs of its lane that go first. installed: names of the models there are, if known.

    store: what is wrong with the store, if anything is. depends_on: what the job waits for. hung: why its
    process is being ended, if it is.
    """

    now: datetime
    position: int = 0
    lanes: Sequence[LaneView] = ()
    workers: Sequence[Worker] = ()
    quarantines: Sequence[Quarantine] = ()
    installed: Collection[str] | None = None
    store: Reason | None = None
    depends_on: Sequence[Dependency] = ()
    hung: str | None = None

    @property
    def present(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.state != "gone"]

    @property
    def heard(self) -> list[Worker]:
        return [worker for worker in self.present if self.is_heard(worker)]

    def is_heard(self, worker: Worker) -> bool:
        return (self.now - worker.heartbeat_at).total_seconds() <= SILENT

    def quarantine_of(self, worker: Worker) -> Quarantine | None:
        return next((one for one in self.quarantines if one.gpu == worker.gpu), None)

    def is_willing(self, worker: Worker) -> bool:
        return worker.wish is Wish.RUN and self.quarantine_of(worker) is None

    def able(self, job: Job) -> list[Worker]:
        """Those that may be given the job once they are free."""
        fit = [w for w in self.heard if self.is_willing(w) and w.state != "starting" and fits(job, w)]
        others = [worker for worker in fit if worker.gpu not in job.avoid]
        return others or fit  # where it has faulted it goes again only if nobody else could


def fits(job: Job, worker: Worker) -> bool:
    return worker.renders(job.spec.model_digest) and not lacks(job, worker)


def lacks(job: Job, worker: Worker) -> list[str]:
    """What the job requires and the worker does not have, or has not said that it has."""
    asked = job.requires or Requires()
    missing = [f"tag {tag}" for tag in asked.tags if tag not in worker.tags]
    if asked.pool is not None and asked.pool != worker.pool:
        missing.append(f"pool {asked.pool}")
    if asked.gpus > worker.gpus:
        missing.append(f"{asked.gpus} GPUs")
    has = worker.memory_total or 0
    if asked.memory > has:
        missing.append(f"{gib(asked.memory)} of memory")
    elif job.memory_above is not None and has <= job.memory_above:
        missing.append(f"more than {gib(job.memory_above)} of memory")
    return missing
