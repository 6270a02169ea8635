"""Machines' side of a job: claim, start, renew, and every way a claim ends. Fenced by (job, epoch)."""

from farm.db.leases.claiming import MOST_LEASES, claim, start
from farm.db.leases.ending import cancelled, fail, finish, give_back, held, lost, recall
from farm.db.leases.expanding import expand
from farm.db.leases.reaping import expire, reap
from farm.db.leases.renewing import renew
from farm.db.leases.stalling import Stalled, deadlines, stalled
from farm.db.waiting import due

__all__ = [
    "MOST_LEASES", "Stalled", "cancelled", "claim", "deadlines", "due", "expand", "expire", "fail", "finish",
    "give_back", "held", "lost", "reap", "recall", "renew", "stalled", "start",
]  # fmt: skip
