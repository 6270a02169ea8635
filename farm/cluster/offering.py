"""A finished video on its way to being the job's: uploaded, then offered in one fenced transaction.

While the store or the database is away it waits here and is offered again: it is never rendered anew.
"""

import time
from collections.abc import Callable, Mapping

from farm.cluster.claim import Claim
from farm.cluster.faults import AWAY, Stopped
from farm.db import leases
from farm.db.engine import Database
from farm.domain.errors import DatabaseRefused, DatabaseUnavailable, FarmError, StorageRefused
from farm.domain.job import Artifact
from farm.domain.states import Outcome, StageName
from farm.media.encoder import EncodedVideo
from farm.ops.logging import Log
from farm.storage.keys import beside
from farm.storage.store import Store

_FIRST_RETRY, _SLOWEST_RETRY = 0.5, 15.0
# Seconds for a key or a right that is wrong: somebody must mend that, and another node may have the right one.
_REFUSED = 600.0
_ORDERS = frozenset({Outcome.CANCELLED, Outcome.DRAIN, Outcome.LOST})


def upload(claim: Claim, store: Store, encoded: EncodedVideo, stills: Mapping[str, bytes], log: Log) -> Artifact:
    """Below this claim's own prefix, where no other claim ever writes. stills: JPEGs, the poster among them.

    Raises Stopped, StorageRefused.
    """
    assignment = claim.assignment
    key = f"{assignment.prefix}/video.mp4"
    artifact = Artifact(
        key=key, sha256=encoded.sha256, bytes=encoded.bytes,
        frames=encoded.frames, seconds=encoded.seconds, poster_key=beside(key, "poster"),
    )  # fmt: skip

    def act() -> None:
        store.put(artifact.key, encoded.path, encoded.sha256)
        store.put_bytes(f"{artifact.key}.sha256", f"{encoded.sha256}  video.mp4\n".encode())
        for name, jpeg in stills.items():
            store.put_bytes(beside(artifact.key, name), jpeg)

    patiently(claim, act, log)
    return artifact


def finish(
    claim: Claim, db: Database, artifact: Artifact, timings: Mapping[str, float], peak: int | None, log: Log
) -> bool:
    """Makes it the job's video. False: the job was given to somebody else meanwhile, and nothing has changed."""
    assignment = claim.assignment
    won: list[bool] = []

    def act() -> None:
        won.append(leases.finish(db, assignment.job, assignment.epoch, artifact, timings, peak_memory=peak))

    patiently(claim, act, log)
    if not won[-1]:
        log.warning("finished_too_late", discarded=artifact.key, job_is="of another attempt, or over")
    return won[-1]


def patiently(claim: Claim, act: Callable[[], None], log: Log, heeding: frozenset[Outcome] = _ORDERS) -> None:
    """`act` until it is done. Only an order in `heeding` ends the waiting: raises Stopped.

    A lease that merely ran out does not: the fence decides. A refusal is raised after ten minutes.
    """
    waited, pause, tries = 0.0, _FIRST_RETRY, 0
    while True:
        try:
            return act()
        except AWAY as error:
            if waited >= _REFUSED and isinstance(error, (StorageRefused, DatabaseRefused)):
                raise
            tries += 1
            log.warning(
                "dependency_away", waiting_for=_missing(error), error=error.message, tries=tries, retry_in=pause
            )
        if claim.progress.stage is StageName.UPLOAD:
            claim.report(StageName.UPLOAD, tries)  # of no known number: people see that it is being tried
        if claim.told.is_set():  # by an order that may not concern us, and would not let us wait
            time.sleep(pause)
        else:
            claim.told.wait(pause)
        told = claim.told_to_stop()
        if told is not None and told in heeding:
            raise Stopped(told)
        waited, pause = waited + pause, min(2 * pause, _SLOWEST_RETRY)


def _missing(error: FarmError) -> str:
    return "database" if isinstance(error, DatabaseUnavailable) else "storage"
