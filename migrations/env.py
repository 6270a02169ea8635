"""Runs the migrations on the connection its caller holds, or on FARM_DATABASE_URL."""

import os

from alembic import context
from sqlalchemy import Connection

from farm.db.engine import open_database
from farm.db.tables import metadata


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=True,  # SQLite alters a table by copying it
        transactional_ddl=True,  # our connections begin before DDL, so a failed migration leaves nothing
    )
    with context.begin_transaction():
        context.run_migrations()


held = context.config.attributes.get("connection")
if held is not None:
    run(held)
else:
    database = open_database(os.environ["FARM_DATABASE_URL"])
    with database.write() as connection:
        run(connection)
    database.close()
