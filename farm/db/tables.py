"""The tables of the job protocol, and the indexes that its hot queries live on."""

from enum import StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Enum,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    literal_column,
    text,
)

from farm.db.dialect import HALF_EMPTY, NEVER_REUSED, JobId, RowNumber, UtcTime, only_where
from farm.domain.person import Role
from farm.domain.states import FINAL, After, JobState, Outcome, StageName, Wish

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_once",
        "ck": "%(table_name)s_%(constraint_name)s",
        "fk": "%(table_name)s_%(column_0_N_name)s_of_%(referred_table_name)s",
        "pk": "%(table_name)s_key",
    }
)


def _word(enum: type[StrEnum], name: str) -> Enum:
    """A column that holds one of the words of `enum`, and a CHECK that says so."""
    return Enum(
        enum, name=name, native_enum=False, create_constraint=True, length=16,
        values_callable=_values,
    )  # fmt: skip


def _values(words: type[StrEnum]) -> list[str]:
    return [word.value for word in words]


_final_words = ", ".join(f"'{state}'" for state in sorted(FINAL))

# A batch's state derives from its jobs; a job names its batch by owner and name.
batches = Table(
    "batches",
    metadata,
    Column("owner", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("owner", "name"),
)

lanes = Table(
    "lanes",
    metadata,
    Column("id", Text, primary_key=True),  # owner/project/class/model
    Column("owner", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("class", String(16), nullable=False, key="cls"),  # interactive | bulk
    Column("model", Text, nullable=False),
    Column("virtual_time", Float, nullable=False, default=0.0),  # GPU seconds / weight
    Column("weight", Float, nullable=False, default=1.0),
    Column("closed_reason", Text),  # NULL = open
    Column("open_until", UtcTime),  # end of its window: nothing is claimed from then on; NULL = no end
    CheckConstraint("weight > 0", name="weight_positive"),
)

jobs = Table(
    "jobs",
    metadata,
    # Age. Rows of one batch are accepted in the same microsecond, so created_at cannot order them.
    Column("seq", RowNumber, primary_key=True),
    Column("id", JobId, nullable=False, unique=True),
    Column("owner", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("batch", Text),
    Column("lane", Text, ForeignKey("lanes.id"), nullable=False),
    Column("idempotency_key", Text),
    Column("spec", Text, nullable=False),  # JobSpec.canonical(); immutable
    # Three fields of the spec, repeated for WHERE clauses.
    Column("model", Text, nullable=False),
    Column("model_digest", Text, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("not_before", UtcTime),
    Column("state", _word(JobState, "state_known"), nullable=False),
    Column("epoch", Integer, nullable=False, default=0),  # number of claims; the fencing token
    Column("failures", Integer, nullable=False, default=0),  # claims that ended in blame
    Column("cancel_requested_at", UtcTime),
    Column("artifact", JSON(none_as_null=True)),
    Column("error", JSON(none_as_null=True)),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("finished_at", UtcTime),
    Column("hidden_at", UtcTime),
    Column("expanded_prompt", Text),  # written once, by a text stage that holds the claim
    Column("requires", JSON(none_as_null=True)),  # domain.job.Requires: what a worker must have; NULL = nothing
    # How often it was moved to the next smaller memory plan, and bytes of the largest card that was too small
    # even for the smallest.
    Column("memory_plan", Integer, nullable=False, default=0, server_default=text("0")),
    Column("memory_above", BigInteger),
    Column("avoid", JSON(none_as_null=True)),  # uuids of the GPUs on which it faulted
    Column(
        "pardoned", Integer, nullable=False, default=0, server_default=text("0")
    ),  # blame up to this epoch is past
    Column("rest_until", UtcTime),  # lost again and again: nobody claims it before
    Column("video_removed_at", UtcTime),  # it succeeded, and its video has made room since
    ForeignKeyConstraint(["owner", "batch"], ["batches.owner", "batches.name"]),
    # Final is final in the data too, whatever code writes it.
    CheckConstraint(f"(state IN ({_final_words})) = (finished_at IS NOT NULL)", name="finished_when_final"),
    CheckConstraint("state <> 'succeeded' OR artifact IS NOT NULL", name="success_has_video"),
    # NULLs never collide: this holds keys inside batches, the partial index below those outside.
    UniqueConstraint("owner", "batch", "idempotency_key"),
    **NEVER_REUSED,
)
Index("jobs_key_without_batch", jobs.c.owner, jobs.c.idempotency_key, unique=True,
      **only_where(jobs.c.batch.is_(None)))  # fmt: skip
# The queue: claim reads a lane's head in this order.
Index("jobs_queue", jobs.c.state, jobs.c.lane, jobs.c.priority.desc(), jobs.c.seq)
# Pages of one state, newest first: a gallery of all videos is not sorted anew for each page.
Index("jobs_state", jobs.c.state, jobs.c.seq)
Index("jobs_batch", jobs.c.batch, jobs.c.seq)

# Which jobs a job waits for, and how they must have ended.
dependencies = Table(
    "dependencies",
    metadata,
    Column("job", JobId, ForeignKey("jobs.id"), nullable=False),
    Column("needs", JobId, ForeignKey("jobs.id"), nullable=False),
    Column("mode", _word(After, "mode_known"), nullable=False),
    PrimaryKeyConstraint("job", "needs"),
)
Index("dependencies_needs", dependencies.c.needs)

# A machine with workers, as its agent reports it. Its wish holds for every worker on it, present and to come.
nodes = Table(
    "nodes",
    metadata,
    Column("node", Text, primary_key=True),
    Column("agent_boot", Text),  # new for every agent process; NULL: wished for before it was ever heard
    Column("heartbeat_at", UtcTime),
    Column("wish", _word(Wish, "wish_known")),  # NULL = none
    Column("wish_at", UtcTime),
    Column("wish_by", Text),
    Column("wish_reason", Text),
    Column("wish_now", Boolean, nullable=False, default=False, server_default=false()),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),  # a boot id, new for every process
    Column("node", Text, nullable=False),
    Column("gpu", Text, nullable=False),
    Column("device_name", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("models", JSON, nullable=False),
    Column("wish", _word(Wish, "wish_known"), nullable=False),
    Column("state", String(16), nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("heartbeat_at", UtcTime, nullable=False),
    Column("ended_at", UtcTime),  # its process is known to be gone: late beats change nothing
    Column("jobs_done", Integer, nullable=False, default=0),
    Column("memory", BigInteger),
    Column("available", JSON(none_as_null=True)),  # {name: digest} it can load; NULL: it has not said yet
    Column("wish_at", UtcTime),
    Column("wish_by", Text),
    Column("wish_reason", Text),
    # False: the job in hand is finished first; True: it is given back at its next step.
    Column("wish_now", Boolean, nullable=False, default=False, server_default=false()),
    # What jobs may require of it. memory_total in bytes of the device; NULL: it has not said.
    Column("tags", JSON(none_as_null=True)),
    Column("pool", Text),
    Column("memory_total", BigInteger),
    Column("gpus", Integer, nullable=False, default=1, server_default=text("1")),
    Column("load", JSON(none_as_null=True)),  # farm.domain.worker.Load; NULL: it has not said
)

# Weights by name and digest. A job is pinned to a digest; `preset` is what a server must know to accept it.
models = Table(
    "models",
    metadata,
    Column("name", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("preset", JSON, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("first_seen", UtcTime, nullable=False),
    PrimaryKeyConstraint("name", "digest"),
)

# One narrow row per active job; renewals and progress touch only this.
leases = Table(
    "leases",
    metadata,
    Column("job", JobId, ForeignKey("jobs.id"), primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("worker", Text, ForeignKey("workers.id"), nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("stage", _word(StageName, "stage_known")),
    Column("k", Integer, nullable=False, default=0),
    Column("n", Integer, nullable=False, default=0),
    Column("preview_step", Integer),
    Column("renewed_at", UtcTime, nullable=False),
    Column("progress_at", UtcTime, nullable=False),  # when stage or k last changed
    **HALF_EMPTY,
)
Index("leases_expiry", leases.c.expires_at)
Index("leases_worker", leases.c.worker)

attempts = Table(
    "attempts",
    metadata,
    Column("job", JobId, ForeignKey("jobs.id"), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("worker", Text, ForeignKey("workers.id"), nullable=False),
    Column("gpu", Text, nullable=False),
    Column("outcome", _word(Outcome, "outcome_known")),
    Column("timings", JSON, nullable=False),  # seconds per stage
    Column("peak_memory", BigInteger),
    Column("cause", Text),
    Column("claimed_at", UtcTime, nullable=False),
    Column("started_at", UtcTime),
    Column("finished_at", UtcTime),
    Column("blamed", Boolean, nullable=False, default=False, server_default=false()),  # it counts towards the cap
    PrimaryKeyConstraint("job", "epoch"),
    CheckConstraint("(outcome IS NULL) = (finished_at IS NULL)", name="closed_with_outcome"),
)
# Few rows: the faults of one GPU in the last hour.
FAULTED = attempts.c.outcome == literal_column(f"'{Outcome.DEVICE_FAULT}'")
Index("attempts_faults", attempts.c.gpu, attempts.c.finished_at, **only_where(FAULTED))

# One row per GPU that ever was in quarantine; it is in quarantine until it is released.
quarantines = Table(
    "quarantines",
    metadata,
    Column("gpu", Text, primary_key=True),
    Column("node", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("since", UtcTime, nullable=False),
    Column("until", UtcTime),  # from then on a probe may release it; NULL = only a person does
    Column("times", Integer, nullable=False),  # in a row: each lasts twice as long
    Column("probes", Integer, nullable=False, default=0),
    Column("last_probe_at", UtcTime),
    Column("last_probe", Text),  # what it found
    Column("released_at", UtcTime),
    Column("released_by", Text),
)

# Who may sign in with a token. Only a digest of it is kept; nothing is ever deleted: once there was an account,
# a farm is not open to everybody again because the last one was revoked.
tokens = Table(
    "tokens",
    metadata,
    Column("prefix", Text, primary_key=True),  # the token's public part
    Column("digest", String(64), nullable=False),  # SHA-256 of the whole
    Column("name", Text, nullable=False),  # the person, owner of what it submits
    Column("role", _word(Role, "role_known"), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", UtcTime),
    Column("last_used_at", UtcTime),
    Column("revoked_at", UtcTime),
    Column("revoked_by", Text),
)

# The outbox: what the stream reads. Its ids come to light in their order: see dialect.settled_events.
events = Table(
    "events",
    metadata,
    Column("id", RowNumber, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("subject", Text, nullable=False),
    Column("data", JSON, nullable=False),
    Column("at", UtcTime, nullable=False),
    **NEVER_REUSED,
)
