"""Models by digest, which of them each worker can load, and the stage that encodes an image."""

import sqlalchemy as sa
from alembic import op

from farm.db.dialect import UtcTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BEFORE = ("loading", "text", "denoise", "decode", "encode", "upload")
AFTER = ("loading", "text", "image", "denoise", "decode", "encode", "upload")


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("preset", sa.JSON(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("first_seen", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", "digest", name=op.f("models_key")),
    )
    op.add_column("workers", sa.Column("available", sa.JSON(none_as_null=True), nullable=True))
    with op.batch_alter_table("leases", copy_from=_leases()) as batch_op:
        batch_op.drop_constraint(op.f("leases_stage_known"), type_="check")
        batch_op.create_check_constraint(op.f("leases_stage_known"), _stages(AFTER))


def _leases() -> sa.Table:
    """As 0001 left it: a database that alters a table by copying it cannot read its CHECKs."""
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
        sa.CheckConstraint(_stages(BEFORE), name="leases_stage_known"),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name="leases_job_of_jobs"),
        sa.ForeignKeyConstraint(["worker"], ["workers.id"], name="leases_worker_of_workers"),
        sa.PrimaryKeyConstraint("job", name="leases_key"),
        sa.Index("leases_expiry", "expires_at"),
    )


def _stages(words: tuple[str, ...]) -> str:
    return f"stage IN ({', '.join(repr(word) for word in words)})"
