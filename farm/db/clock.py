"""What time it is for the database, whose clock decides about leases."""

from datetime import datetime

from sqlalchemy import select

from farm.db.dialect import farm_now
from farm.db.engine import Database


def database_time(db: Database) -> datetime:
    """Raises DatabaseUnavailable."""
    with db.read() as connection:
        return connection.execute(select(farm_now())).scalar_one()
