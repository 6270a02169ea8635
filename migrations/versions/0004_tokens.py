"""Tokens: who may sign in."""

import sqlalchemy as sa
from alembic import op

from farm.db.dialect import UtcTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ROLES = ("artist", "operator", "admin")


def upgrade() -> None:
    op.create_table(
        "tokens",
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "role",
            sa.Enum(*ROLES, name="role_known", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=True),
        sa.Column("last_used_at", UtcTime(), nullable=True),
        sa.Column("revoked_at", UtcTime(), nullable=True),
        sa.Column("revoked_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("prefix", name=op.f("tokens_key")),
    )
