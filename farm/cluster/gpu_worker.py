"""The Ray actor that owns one device and keeps one model resident. It renders what it is offered, no more."""

import contextlib
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from farm.cluster import device, vacancy
from farm.cluster.beating import Beater
from farm.cluster.claim import Claim
from farm.cluster.node_settings import settings_here
from farm.cluster.render import Renderer, Result
from farm.cluster.resident import Resident
from farm.cluster.slots import Slot, gpu_of, threads_for
from farm.db import models, workers
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


@dataclass(frozen=True)
class WorkerStatus:
    """What the dispatcher sees. `version` grows with every change; `ready` takes an offer.

    leaving: its node goes down, so it ends and nobody need come after it.
    """

    version: int
    worker: str
    pid: int
    ready: bool
    jobs_done: int
    leaving: bool = False


class GpuWorker:
    """Ray's threads only look or hand over; the render thread works; the beat thread reports."""

    def __init__(self, farm_wide: Mapping[str, Any], slot: Slot) -> None:
        self._settings = settings = settings_here(farm_wide)
        # Ray has set 1. It is read when the tensor library is loaded, which has not happened yet.
        os.environ["OMP_NUM_THREADS"] = str(threads_for(slot, settings))
        self._slot = slot
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
        self._leaving = False
        self._node_leaves = False
        self._jobs_done = 0
        self._beater = Beater(settings, self._id, self._look, self._leave, self._log)
        _on_sigterm(self._end)
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
                self._version, self._id, os.getpid(), self._ready, self._jobs_done, self._node_leaves
            )

    # -- the beat thread ---------------------------------------------------------------------------

    def _look(self) -> tuple[Beat, Claim | None]:
        with self._changed:
            claim, state = self._claim, self._state
        return Beat(
            worker=self._id, job=None if claim is None else claim.assignment.job,
            epoch=0 if claim is None else claim.assignment.epoch,
            progress=None if claim is None else claim.progress, models=self._resident.digests, state=state,
            memory=device.resident_memory(), jobs_done=self._jobs_done,
        ), claim  # fmt: skip

    def _leave(self, leaving: bool) -> None:
        """The node goes down: give back what runs, take nothing more, and end."""
        if leaving and not self._leaving:
            self._node_leaves = True
            threading.Thread(target=self._end, name="end", daemon=True).start()

    # -- the render thread -------------------------------------------------------------------------

    def _guarded(self) -> None:
        """A render thread that ends takes the process with it: an actor without one would look alive."""
        try:
            self._run()
        except BaseException as error:
            self._log.error("worker_failed", error)
            self._exit(1)

    def _run(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        # Thousands of workers, each with a few statements a minute: none keeps a connection for them.
        db = open_database(self._settings.database_url, pooled=False)
        workers.register(db, self._introduction())
        vacancy.enter(self._slot, self._settings, self._id, self._log)
        renderer = Renderer(
            self._settings, db, open_store(self._settings.store), self._scratch, self._resident, self._log
        )
        self._beater.start()
        self._load()
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
            device.return_free_memory()
            suspect = result is not None and result.device_suspect
            let_down = result is not None and result.outcome is Outcome.DEPENDENCY
            with self._changed:
                self._leaving = self._leaving or suspect  # ready for nothing in the moment before the end
                self._claim = None
                self._change("idle" if not let_down else "busy")
            if let_down:
                # The job is back in the queue, for others: taking it again now would fail again.
                self._log.warning("sits_out", seconds=sit_out, job=claim.assignment.job)
                with self._changed:
                    self._changed.wait_for(lambda: self._leaving, timeout=sit_out)
                    self._change("idle")
            sit_out = min(2 * sit_out, _LONGEST_SIT_OUT) if let_down else _SIT_OUT
            self._advertise(db)
            if suspect:
                self._log.warning("device_suspect", job=claim.assignment.job, epoch=claim.assignment.epoch)
                self._exit(3)

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
        return self._state == "idle" and self._claim is None and not self._leaving

    def _change(self, state: str) -> None:
        self._state = state
        self._version += 1
        self._changed.notify_all()

    def _introduction(self) -> NewWorker:
        gpu = gpu_of(self._slot)
        threads = threads_for(self._slot, self._settings)
        name = gpu.name if gpu is not None else f"CPU, {threads} thread{'' if threads == 1 else 's'}"
        return NewWorker(self._id, self._settings.node_name, self._slot.gpu, name, os.getpid())

    def _end(self) -> None:
        self._log.info("worker_ends")
        with self._changed:
            self._leaving = True
            self._change(self._state)
            if self._claim is not None:
                self._claim.heed(Order.DRAIN)  # back into the queue, without blame
            self._changed.wait_for(lambda: self._claim is None, timeout=_LAST_WORDS)
        self._exit(0)

    def _exit(self, code: int) -> None:
        with contextlib.suppress(Exception):  # whatever is away now, the process ends
            self._beater.stop()
            shutil.rmtree(self._scratch, ignore_errors=True)
            db = open_database(self._settings.database_url, busy_timeout=1.0)
            workers.gone(db, self._id)
        os._exit(code)


def _on_sigterm(act: Callable[[], None]) -> None:
    """Calls `act` on a thread when SIGTERM comes.

    Ray's main thread waits inside C++, where Python's handlers never run; the byte that the
    interpreter's C handler writes to the wakeup descriptor arrives all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # not an actor's process
    coming, going = os.pipe()
    os.set_blocking(going, False)

    def nothing(*_: Any) -> None: ...

    signal.signal(signal.SIGTERM, nothing)  # in place of Ray's, which would wait for every call to end
    signal.set_wakeup_fd(going)

    def watch() -> None:
        while os.read(coming, 1)[0] != signal.SIGTERM:
            pass
        act()

    threading.Thread(target=watch, name="sigterm", daemon=True).start()
