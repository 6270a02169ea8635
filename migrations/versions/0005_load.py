"""How hard each worker's device works."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("load", sa.JSON(none_as_null=True), nullable=True))
