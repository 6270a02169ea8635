"""Models by digest, and which of them each worker can load."""

import sqlalchemy as sa
from alembic import op

from farm.db.dialect import UtcTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


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
