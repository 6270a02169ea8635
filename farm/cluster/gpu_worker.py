"""The Ray actor that owns one device and keeps one model resident. It renders what it is offered, no more."""

import contextlib
import os
import shutil
import threading
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from farm.cluster import admission, device, probe
from farm.cluster.admission import NotAdmitted
from farm.cluster.beating import Beater
from farm.cluster.card import Card
from farm.cluster.claim import Claim, Overdue
from farm.cluster.gauge import Gauge
from farm.cluster.node_settings import settings_here
from farm.cluster.render import Renderer, Result
from farm.cluster.resident import Resident
from farm.cluster.sigterm import on_sigterm
from farm.cluster.slots import Slot, gpu_of, threads_for
from farm.cluster.watchdog import Watchdog
from farm.cluster.wear import Memory, Wear
from farm.db import leases, models, workers
from farm.db.engine import Database, open_database
from farm.domain.errors import FarmError
from farm.domain.job import Assignment
from farm.domain.model import ModelOnDisk
from farm.domain.states import Order, Outcome
from farm.domain.worker import Beat, NewWorker
from farm.models.on_disk import on_disk
from farm.ops.logging import start_log
from farm.storage.store import open_store
from model.errors import ModelError
from model.library import Library

# Seconds without work after a disk or store let us down, doubled each time.
_SIT_OUT, _LONGEST_SIT_OUT = 5.0, 120.0
_LOOK_AT_DISK = 10.0  # seconds between two looks for models that came or went
_LAST_WORDS = 8.0  # seconds for the step in hand, and for giving its job back
_LAST_CALL = 5.0  # seconds for telling the database why a hung process ends


@dataclass(frozen=True)
class WorkerStatus:
    """What the dispatcher sees. `version` grows with every change; `ready` takes an offer.

    ends: why its process is about to end by itself; leaving: with its node, so that nobody need come after it.
    """

    version: int
    worker: str
    pid: int
    ready: bool
    jobs_done: int
    leaving: bool = False
    ends: str = ""


class GpuWorker:
    """Ray's threads only look or hand over; the render thread works; the beat thread reports.

    on_probation: its device was in quarantine, and is to be probed before it takes jobs.
    """

    def __init__(self, farm_wide: Mapping[str, Any], slot: Slot, on_probation: bool = False) -> None:
        self._settings = settings = settings_here(farm_wide)
        # Ray has set 1. It is read when the tensor library is loaded, which has not happened yet.
        os.environ["OMP_NUM_THREADS"] = str(threads_for(slot, settings))
        # Idle threads sleep: those that spin take a core from whoever works beside. A demo clip on 2 cores: 2.6 s
        # instead of 2.4 alone, 4.1 instead of 6.4 beside one busy process.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._slot = slot
        self._on_probation = on_probation
        self._id = uuid.uuid4().hex
        # By slot, so that a worker finds and removes what one that was killed has left.
        self._scratch = settings.scratch_dir / slot.log_name
        self._log = start_log(slot.log_name, settings.log_dir, settings.log_level).bind(worker=self._id)
        self._library = Library(settings.models)
        self._resident = Resident(settings.pipeline, self._library, "cuda" if slot.is_gpu else "cpu", self._log)
        self._advertised: list[ModelOnDisk] = []
        self._changed = threading.Condition()
        self._version = 0
        self._state = "starting"
        self._claim: Claim | None = None
        self._ends = ""  # why, once it is certain: from then on it takes nothing
        self._node_leaves = False
        self._jobs_done = 0
        self._gauge = Gauge(slot.gpu if slot.is_gpu else None)
        self._wear = Wear(settings.worker_recycle_after, settings.worker_memory_drift)
        self._beater = Beater(settings, self._id, self._look, self._leave, self._log)
        self._watchdog = Watchdog(lambda: self._claim, self._hangs, self._log)
        on_sigterm(lambda: self._end("sigterm"))
        threading.Thread(target=self._guarded, name="render", daemon=True).start()

    # -- what the dispatcher calls -----------------------------------------------------------------

    def offer(self, assignment: Assignment) -> int:
        """Takes the claim: the version of the status that shows it. 0: it cannot."""
        with self._changed:
            if not self._ready or assignment.worker != self._id:
                return 0
            self._claim = Claim(assignment, self._settings.lease_ttl)
            self._change("busy")
            return self._version

    def wait_change(self, seen: int, seconds: float) -> WorkerStatus:
        """The status as soon as it differs from version `seen`, or after `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != seen, timeout=seconds)
            return WorkerStatus(
                self._version, self._id, os.getpid(), self._ready, self._jobs_done, self._node_leaves, self._ends
            )

    # -- the beat thread ---------------------------------------------------------------------------

    def _look(self) -> tuple[Beat, Claim | None]:
        with self._changed:
            claim, state = self._claim, self._state
        return Beat(
            worker=self._id, job=None if claim is None else claim.assignment.job,
            epoch=0 if claim is None else claim.assignment.epoch,
            progress=None if claim is None else claim.progress, models=self._resident.digests, state=state,
            memory=device.resident_memory(), jobs_done=self._jobs_done, load=self._gauge.look(),
        ), claim  # fmt: skip

    def _leave(self, leaving: bool) -> None:
        """The node goes down: give back what runs, take nothing more, and end."""
        if leaving and not self._node_leaves:
            self._node_leaves = True
            threading.Thread(target=self._end, args=("its node leaves",), name="end", daemon=True).start()

    # -- the render thread -------------------------------------------------------------------------

    def _guarded(self) -> None:
        """A render thread that ends takes the process with it: an actor without one would look alive."""
        try:
            self._run()
        except NotAdmitted as refused:
            with self._changed:
                self._ends = refused.message
                self._change(self._state)
            self._exit(5)
        except BaseException as error:
            self._log.error("worker_failed", error)
            self._exit(1)

    def _run(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        # Thousands of workers, each with a few statements a minute: none keeps a connection for them.
        db = open_database(self._settings.database_url, pooled=False)
        workers.register(db, self._introduction())
        self._beater.start()
        admission.take(self._slot, self._settings, self._id, db, self._log)
        renderer = Renderer(
            self._settings, db, open_store(self._settings.store), self._scratch, self._resident, self._log,
            Card(self._slot.gpu if self._slot.is_gpu else None),
        )  # fmt: skip
        self._watchdog.start()
        self._load()
        if self._on_probation:
            with self._changed:
                self._change("probing")
            preset = probe.model_for(self._library, self._settings.model)
            admission.prove(self._slot, self._settings, self._resident, preset, db, self._log)
        self._advertise(db)
        with self._changed:
            self._change("idle")
        self._work(renderer, db)

    def _work(self, renderer: Renderer, db: Database) -> None:
        """Claim after claim. Ends only with the process."""
        sit_out = _SIT_OUT
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._claim is not None, timeout=_LOOK_AT_DISK)
                claim = self._claim
            if claim is None:
                self._advertise(db)
                continue
            result = self._render(renderer, claim)
            let_down = result is not None and result.outcome is Outcome.DEPENDENCY
            ends = self._must_end(result)
            with self._changed:
                self._ends = self._ends or ends  # ready for nothing in the moment before the end
                self._claim = None
                self._change("idle" if not let_down else "busy")
            if ends:
                self._log.warning("worker_ends", why=ends, job=claim.assignment.job, epoch=claim.assignment.epoch)
                self._exit(3)
            if let_down:
                # The job is back in the queue, for others: taking it again now would fail again.
                self._log.warning("sits_out", seconds=sit_out, job=claim.assignment.job)
                with self._changed:
                    self._changed.wait_for(lambda: bool(self._ends), timeout=sit_out)
                    self._change("idle")
            sit_out = min(2 * sit_out, _LONGEST_SIT_OUT) if let_down else _SIT_OUT
            self._advertise(db)

    def _must_end(self, result: Result | None) -> str:
        """Why this process must not take another job; it holds none in this moment. "" if it may."""
        device.return_free_memory()
        if result is None:
            return ""
        if result.outcome is Outcome.OUT_OF_MEMORY:
            device.return_free_device_memory()
        if result.device_suspect:
            return "suspect"
        worn = self._wear.look(self._resident.digests, Memory(device.resident_memory(), device.device_memory()))
        if worn is None:
            return ""
        self._log.info(
            "worker_worn", why=worn.why, jobs=worn.jobs, baseline=asdict(worn.baseline), now=asdict(worn.now)
        )
        return f"recycled: {worn.why}"

    def _render(self, renderer: Renderer, claim: Claim) -> Result | None:
        try:
            result = renderer.render(claim)
        except FarmError as error:  # the database is away: the lease runs out, the job is requeued
            self._log.error("claim_dropped", error, job=claim.assignment.job, epoch=claim.assignment.epoch)
            return None
        if result is not None:
            self._jobs_done += result.ours and result.outcome is Outcome.SUCCEEDED
        return result

    def _advertise(self, db: Database) -> None:
        """Says which models can be loaded here, when that has changed: they are pulled while workers run."""
        held = on_disk(self._library)
        if held == self._advertised:
            return
        try:
            models.advertise(db, self._id, held)
        except FarmError as error:  # the database is away: said again at the next look
            self._log.warning("models_not_told", error=error.message)
        else:
            self._advertised = held
            self._log.info("models_told", models={one.name: one.digest for one in held})

    def _load(self) -> None:
        device.set_threads(threads_for(self._slot, self._settings))
        try:
            self._resident.pipeline(self._settings.model)
        except ModelError as error:
            # Stay: the first job tries again, and its owner reads why it cannot be rendered.
            self._log.error("model_not_loaded", error, next=error.next)
        # The import of the pipeline has brought its tensor library; before, there was nothing to set.
        device.set_threads(threads_for(self._slot, self._settings))

    # ----------------------------------------------------------------------------------------------

    @property
    def _ready(self) -> bool:
        return self._state == "idle" and self._claim is None and not self._ends

    def _change(self, state: str) -> None:
        self._state = state
        self._version += 1
        self._changed.notify_all()

    def _introduction(self) -> NewWorker:
        gpu = gpu_of(self._slot)
        threads = threads_for(self._slot, self._settings)
        name = gpu.name if gpu is not None else f"CPU, {threads} thread{'' if threads == 1 else 's'}"
        return NewWorker(
            self._id, self._settings.node_name, self._slot.gpu, name, os.getpid(),
            tags=self._settings.worker_tags, pool=self._settings.pool or None,
            memory_total=gpu.memory if gpu is not None else device.total_memory(),
        )  # fmt: skip

    def _hangs(self, claim: Claim, overdue: Overdue) -> None:
        """The watchdog's: the render thread will not come back, so nothing is waited for."""

        def tell() -> None:
            db = open_database(self._settings.database_url, busy_timeout=1.0)
            assignment = claim.assignment
            leases.lost(db, assignment.job, assignment.epoch, overdue.cause, crash_cap=self._settings.crash_cap)
            workers.gone(db, self._id)

        with self._changed:
            self._ends = "hangs"
            self._change(self._state)
        last_call = threading.Thread(target=tell, daemon=True)
        last_call.start()
        last_call.join(_LAST_CALL)  # the dispatcher sees the death in any case
        os._exit(4)

    def _end(self, why: str) -> None:
        self._log.info("worker_ends", why=why)
        with self._changed:
            self._ends = self._ends or why
            self._change(self._state)
            if self._claim is not None:
                self._claim.heed(Order.DRAIN)  # back into the queue, without blame
            self._changed.wait_for(lambda: self._claim is None, timeout=_LAST_WORDS)
        self._exit(0)

    def _exit(self, code: int) -> NoReturn:
        with contextlib.suppress(Exception):  # whatever is away now, the process ends
            self._beater.stop()
            shutil.rmtree(self._scratch, ignore_errors=True)
            db = open_database(self._settings.database_url, busy_timeout=1.0)
            workers.gone(db, self._id)
        os._exit(code)
