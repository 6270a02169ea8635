"""Jobs whose video was removed and that stay in the lists."""

import sqlalchemy as sa
from alembic import op

from farm.db.dialect import UtcTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("video_removed_at", UtcTime(), nullable=True))
