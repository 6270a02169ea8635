"""The whole job protocol: dependencies, requirements, memory plans, blame, nodes, wishes and quarantines."""

import sqlalchemy as sa
from alembic import op

from farm.db.dialect import HALF_EMPTY, JobId, UtcTime, farm_now

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

WISHES = ("run", "drain", "restart", "quarantine")


def upgrade() -> None:
    op.add_column("lanes", sa.Column("open_until", UtcTime(), nullable=True))
    for column in (
        sa.Column("expanded_prompt", sa.Text(), nullable=True),
        sa.Column("requires", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("memory_plan", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("memory_above", sa.BigInteger(), nullable=True),
        sa.Column("avoid", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("pardoned", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("rest_until", UtcTime(), nullable=True),
    ):
        op.add_column("jobs", column)
    op.create_table(
        "dependencies",
        sa.Column("job", JobId, nullable=False),
        sa.Column("needs", JobId, nullable=False),
        sa.Column("mode", _word("mode_known", ("success", "any")), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("dependencies_job_of_jobs")),
        sa.ForeignKeyConstraint(["needs"], ["jobs.id"], name=op.f("dependencies_needs_of_jobs")),
        sa.PrimaryKeyConstraint("job", "needs", name=op.f("dependencies_key")),
    )
    op.create_index("dependencies_needs", "dependencies", ["needs"])
    op.create_table(
        "nodes",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("agent_boot", sa.Text(), nullable=True),
        sa.Column("heartbeat_at", UtcTime(), nullable=True),
        sa.Column("wish", _word("wish_known", WISHES), nullable=True),
        *_wished(),
        sa.PrimaryKeyConstraint("node", name=op.f("nodes_key")),
    )
    for column in (
        *_wished(),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("pool", sa.Text(), nullable=True),
        sa.Column("memory_total", sa.BigInteger(), nullable=True),
        sa.Column("gpus", sa.Integer(), server_default=sa.text("1"), nullable=False),
    ):
        op.add_column("workers", column)
    op.add_column("attempts", sa.Column("blamed", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index(
        "attempts_faults",
        "attempts",
        ["gpu", "finished_at"],
        sqlite_where=sa.text("outcome = 'device_fault'"),
        postgresql_where=sa.text("outcome = 'device_fault'"),
    )
    # Every failed attempt of these classes was blamed until now.
    attempts = sa.table("attempts", sa.column("outcome"), sa.column("blamed"), sa.column("started_at"))
    op.execute(
        attempts.update()
        .where(attempts.c.outcome.in_(["device_fault", "lost"]), attempts.c.started_at.is_not(None))
        .values(blamed=sa.true())
    )
    op.create_table(
        "quarantines",
        sa.Column("gpu", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("since", UtcTime(), nullable=False),
        sa.Column("until", UtcTime(), nullable=True),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("probes", sa.Integer(), nullable=False),
        sa.Column("last_probe_at", UtcTime(), nullable=True),
        sa.Column("last_probe", sa.Text(), nullable=True),
        sa.Column("released_at", UtcTime(), nullable=True),
        sa.Column("released_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("gpu", name=op.f("quarantines_key")),
    )
    _upgrade_leases()


def _upgrade_leases() -> None:
    """Two times that every lease has: of those that are running we know only that they were renewed lately."""
    op.add_column("leases", sa.Column("renewed_at", UtcTime(), nullable=True))
    op.add_column("leases", sa.Column("progress_at", UtcTime(), nullable=True))
    leases = sa.table("leases", sa.column("renewed_at", UtcTime()), sa.column("progress_at", UtcTime()))
    op.execute(leases.update().values(renewed_at=farm_now(), progress_at=farm_now()))
    with op.batch_alter_table("leases", copy_from=_leases()) as batch_op:
        batch_op.alter_column("renewed_at", existing_type=UtcTime(), nullable=False)
        batch_op.alter_column("progress_at", existing_type=UtcTime(), nullable=False)
    op.create_index("leases_worker", "leases", ["worker"])


def _wished() -> tuple[sa.Column[object], ...]:
    """Who wished it, when, why, and whether the job in hand is to be given back."""
    return (
        sa.Column("wish_at", UtcTime(), nullable=True),
        sa.Column("wish_by", sa.Text(), nullable=True),
        sa.Column("wish_reason", sa.Text(), nullable=True),
        sa.Column("wish_now", sa.Boolean(), server_default=sa.false(), nullable=False),
    )


def _word(name: str, words: tuple[str, ...]) -> sa.Enum:
    return sa.Enum(*words, name=name, native_enum=False, create_constraint=True, length=16)


def _leases() -> sa.Table:
    """As it is now: a database that alters a table by copying it cannot read its CHECKs."""
    return sa.Table(
        "leases",
        sa.MetaData(),
        sa.Column("job", sa.String(length=16), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=True),
        sa.Column("k", sa.Integer(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("preview_step", sa.Integer(), nullable=True),
        sa.Column("renewed_at", UtcTime(), nullable=True),
        sa.Column("progress_at", UtcTime(), nullable=True),
        sa.CheckConstraint(
            "stage IN ('loading', 'text', 'image', 'denoise', 'decode', 'encode', 'upload')",
            name="leases_stage_known",
        ),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name="leases_job_of_jobs"),
        sa.ForeignKeyConstraint(["worker"], ["workers.id"], name="leases_worker_of_workers"),
        sa.PrimaryKeyConstraint("job", name="leases_key"),
        sa.Index("leases_expiry", "expires_at"),
        **HALF_EMPTY,
    )
