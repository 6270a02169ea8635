"""The tables of the job protocol."""

import sqlalchemy as sa
from alembic import op

from farm.db.dialect import HALF_EMPTY, JobId, RowNumber, UtcTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name", name=op.f("batches_key")),
    )
    op.create_table(
        "events",
        sa.Column("id", RowNumber, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("events_key")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "lanes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("class", sa.String(length=16), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("virtual_time", sa.Float(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("closed_reason", sa.Text(), nullable=True),
        sa.CheckConstraint("weight > 0", name=op.f("lanes_weight_positive")),
        sa.PrimaryKeyConstraint("id", name=op.f("lanes_key")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("gpu", sa.Text(), nullable=False),
        sa.Column("device_name", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.Column(
            "wish",
            sa.Enum(
                "run",
                "drain",
                "restart",
                "quarantine",
                name="wish_known",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("started_at", UtcTime(), nullable=False),
        sa.Column("heartbeat_at", UtcTime(), nullable=False),
        sa.Column("ended_at", UtcTime(), nullable=True),
        sa.Column("jobs_done", sa.Integer(), nullable=False),
        sa.Column("memory", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("workers_key")),
    )
    op.create_table(
        "jobs",
        sa.Column("seq", RowNumber, nullable=False),
        sa.Column("id", JobId, nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("batch", sa.Text(), nullable=True),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_digest", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("not_before", UtcTime(), nullable=True),
        sa.Column(
            "state",
            sa.Enum(
                "scheduled",
                "queued",
                "leased",
                "running",
                "succeeded",
                "failed",
                "cancelled",
                "held",
                name="state_known",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("cancel_requested_at", UtcTime(), nullable=True),
        sa.Column("artifact", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.Column("started_at", UtcTime(), nullable=True),
        sa.Column("finished_at", UtcTime(), nullable=True),
        sa.Column("hidden_at", UtcTime(), nullable=True),
        sa.CheckConstraint(
            "(state IN ('cancelled', 'failed', 'succeeded')) = (finished_at IS NOT NULL)",
            name=op.f("jobs_finished_when_final"),
        ),
        sa.CheckConstraint("state <> 'succeeded' OR artifact IS NOT NULL", name=op.f("jobs_success_has_video")),
        sa.ForeignKeyConstraint(["lane"], ["lanes.id"], name=op.f("jobs_lane_of_lanes")),
        sa.ForeignKeyConstraint(
            ["owner", "batch"], ["batches.owner", "batches.name"], name=op.f("jobs_owner_batch_of_batches")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("jobs_key")),
        sa.UniqueConstraint("id", name=op.f("jobs_id_once")),
        sa.UniqueConstraint(
            "owner", "batch", "idempotency_key", name=op.f("jobs_owner_batch_idempotency_key_once")
        ),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index("jobs_batch", ["batch", "seq"], unique=False)
        batch_op.create_index("jobs_state", ["state", "seq"], unique=False)
        batch_op.create_index(
            "jobs_key_without_batch",
            ["owner", "idempotency_key"],
            unique=True,
            sqlite_where=sa.text("batch IS NULL"),
            postgresql_where=sa.text("batch IS NULL"),
        )
        batch_op.create_index(
            "jobs_queue", ["state", "lane", sa.literal_column("priority DESC"), "seq"], unique=False
        )

    op.create_table(
        "attempts",
        sa.Column("job", JobId, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("gpu", sa.Text(), nullable=False),
        sa.Column(
            "outcome",
            sa.Enum(
                "succeeded",
                "cancelled",
                "user_error",
                "out_of_memory",
                "device_fault",
                "lost",
                "drain",
                "preempt",
                "recall",
                "dependency",
                name="outcome_known",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=True,
        ),
        sa.Column("timings", sa.JSON(), nullable=False),
        sa.Column("peak_memory", sa.BigInteger(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("claimed_at", UtcTime(), nullable=False),
        sa.Column("started_at", UtcTime(), nullable=True),
        sa.Column("finished_at", UtcTime(), nullable=True),
        sa.CheckConstraint("(outcome IS NULL) = (finished_at IS NULL)", name=op.f("attempts_closed_with_outcome")),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("attempts_job_of_jobs")),
        sa.ForeignKeyConstraint(["worker"], ["workers.id"], name=op.f("attempts_worker_of_workers")),
        sa.PrimaryKeyConstraint("job", "epoch", name=op.f("attempts_key")),
    )
    op.create_table(
        "leases",
        sa.Column("job", JobId, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.Column(
            "stage",
            sa.Enum(
                "loading",
                "text",
                "denoise",
                "decode",
                "encode",
                "upload",
                name="stage_known",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=True,
        ),
        sa.Column("k", sa.Integer(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("preview_step", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("leases_job_of_jobs")),
        sa.ForeignKeyConstraint(["worker"], ["workers.id"], name=op.f("leases_worker_of_workers")),
        sa.PrimaryKeyConstraint("job", name=op.f("leases_key")),
        **HALF_EMPTY,
    )
    with op.batch_alter_table("leases", schema=None) as batch_op:
        batch_op.create_index("leases_expiry", ["expires_at"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("leases", schema=None) as batch_op:
        batch_op.drop_index("leases_expiry")

    op.drop_table("leases")
    op.drop_table("attempts")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("jobs_queue")
        batch_op.drop_index(
            "jobs_key_without_batch",
            sqlite_where=sa.text("batch IS NULL"),
            postgresql_where=sa.text("batch IS NULL"),
        )
        batch_op.drop_index("jobs_state")
        batch_op.drop_index("jobs_batch")

    op.drop_table("jobs")
    op.drop_table("workers")
    op.drop_table("lanes")
    op.drop_table("events")
    op.drop_table("batches")
