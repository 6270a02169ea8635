"""A claim ends without a video: what its verdict asks for is done in one transaction."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, func, select

from farm.db import quarantines
from farm.db.dialect import farm_now
from farm.db.fitting import larger_card_lives
from farm.db.tables import attempts, jobs, workers
from farm.db.transitions import close_attempt, is_claim, move
from farm.domain.job import JobError
from farm.domain.states import ACTIVE, REQUEUE, JobState, Outcome
from farm.scheduling.quarantine import QuarantinePolicy
from farm.scheduling.verdict import SMALLEST_PLAN, Attempted, Verdict, verdict


def abandon(
    conn: Connection,
    job: str,
    epoch: int,
    outcome: Outcome,
    error: JobError,
    *,
    crash_cap: int = 3,
    agent_lived: bool = True,
    timings: Mapping[str, float] | None = None,
    peak_memory: int | None = None,
    smallest_plan: int = SMALLEST_PLAN,
    quarantine: QuarantinePolicy = QuarantinePolicy(),  # noqa: B008 - it is frozen
) -> JobState | None:
    """What the job becomes; None: the claim is void."""
    held = conn.execute(
        # Locked, so that the verdict is about the row as it will be changed; but not against those who only
        # refer to it (a job that will wait for this one), for they may hold what we need next.
        select(jobs).where(is_claim(job, epoch), jobs.c.state.in_(sorted(ACTIVE))).with_for_update(key_share=True)
    ).one_or_none()
    if held is None:
        return None
    worker = conn.execute(
        select(workers.c.id, workers.c.node, workers.c.memory_total, attempts.c.gpu)
        .join(attempts, attempts.c.worker == workers.c.id)
        .where(attempts.c.job == job, attempts.c.epoch == epoch)
    ).one()
    card: int | None = worker.memory_total
    said = verdict(
        outcome,
        error,
        Attempted(
            failures=held.failures,
            running=held.state is JobState.RUNNING,
            cancel_requested=held.cancel_requested_at is not None,
            new_to_blame=_count(conn, held, attempts.c.blamed, attempts.c.worker == worker.id) == 0,
            agent_lived=agent_lived,
            losses=_count(conn, held, attempts.c.outcome.in_(_LOSSES), ~attempts.c.blamed),
            memory_plan=held.memory_plan,
            smallest_plan=smallest_plan,
            larger_card=_larger_card(conn, job, outcome, card),
            peak=peak_memory,
            card=card,
        ),
        crash_cap,
    )
    if not move(conn, said.arrow, is_claim(job, epoch), worker=worker.id, **_values(said, held, card, worker.gpu)):
        return None
    close_attempt(
        conn, job, epoch, outcome, cause=error.message, timings=timings, peak_memory=peak_memory,
        blamed=said.blamed,
    )  # fmt: skip
    if outcome is Outcome.DEVICE_FAULT:
        quarantines.after_fault(conn, worker.gpu, worker.node, quarantine)
    return said.arrow.target


_LOSSES = (Outcome.LOST, Outcome.DEVICE_FAULT)


def _count(conn: Connection, held: Row[Any], *which: Any) -> int:
    """Attempts since people last asked for the job."""
    mine = select(func.count()).where(attempts.c.job == held.id, attempts.c.epoch > held.pardoned, *which)
    return conn.scalar(mine) or 0


def _larger_card(conn: Connection, job: str, outcome: Outcome, card: int | None) -> bool:
    if outcome is not Outcome.OUT_OF_MEMORY or card is None:
        return False
    return bool(conn.scalar(select(larger_card_lives(job, card))))


def _values(said: Verdict, held: Row[Any], card: int | None, gpu: str) -> dict[str, object]:
    """What changes in the row beside its state."""
    values: dict[str, object] = {
        "failures": said.failures,
        "error": None if said.error is None else asdict(said.error),
        "memory_plan": said.memory_plan,
    }
    if said.arrow is REQUEUE:
        values["started_at"] = None  # of a job that waits: it has not started
        values["rest_until"] = farm_now(said.rest) if said.rest else None
        if said.larger_card:
            values["memory_above"] = card
        if said.elsewhere:
            values["avoid"] = sorted({*(held.avoid or []), gpu})
    return values
