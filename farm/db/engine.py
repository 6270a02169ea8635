"""Opening a database and bringing its schema up to date. Transactions begin and end here and nowhere else."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from farm.db import dialect
from farm.domain.address import shown
from farm.domain.errors import DatabaseUnavailable, SchemaOutdated

if TYPE_CHECKING:
    from alembic.config import Config


class Database:
    """One process's door to the database. Open it after forking; threads may share it."""

    def __init__(self, url: str, options: dialect.Options) -> None:
        self._url = url
        self.name = shown(url)  # as people may see it
        self._engine = dialect.connect(url, options)
        self.dialect = self._engine.dialect.name
        self.passes_pokes = dialect.passes_pokes(self._engine)  # see db.pokes

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def read(self) -> Generator[Connection]:
        """A transaction that only reads: one consistent moment, no lock."""
        with self._transaction(writes=False) as connection:
            yield connection

    @contextmanager
    def write(self) -> Generator[Connection]:
        """A transaction that writes. Committed on return, so it is durable once the block is left."""
        with self._transaction(writes=True) as connection:
            yield connection

    def pokes(self, seconds: float) -> Generator[bool] | None:
        """Whether a poke came, at least every `seconds`; None where this database tells nobody. See db.pokes."""
        return dialect.hear_pokes(self._engine, seconds)

    @contextmanager
    def _transaction(self, writes: bool) -> Generator[Connection]:
        try:
            with self._engine.execution_options(**dialect.begin(self._engine, writes)).begin() as connection:
                yield connection
        except DBAPIError as error:
            meaning = dialect.translate(error, self._url)
            if meaning is None:
                raise
            raise meaning from error
        except PoolTimeout as error:
            raise DatabaseUnavailable(f"every connection to {self.name} is in use", "try again") from error


def open_database(
    url: str,
    now: Callable[[], datetime] | None = None,
    busy_timeout: float = 15.0,
    pooled: bool = True,
    impatient: bool = False,
) -> Database:
    """Connect to `url` once, to fail here and clearly if it cannot be used.

    `now` replaces the database's clock in tests. `busy_timeout`: seconds to wait for another writer.
    `pooled` False: for those who ask seldom and are many; no connection is kept between two transactions.
    `impatient`: for those behind whom a person waits; a server that says nothing is away within seconds.
    Raises FolderUnusable, DatabaseUnavailable. The schema may be any (see check_schema).
    """
    db = Database(url, dialect.Options(now, busy_timeout, pooled, impatient))
    try:
        with db.read() as connection:
            inspect(connection).has_table("jobs")
    except BaseException:
        db.close()
        raise
    return db


def migrate(url: str) -> str:
    """Bring the schema to the newest revision, in one transaction; says which. Safe to repeat and to race."""
    from alembic import command

    db = open_database(url)
    try:
        with db.write() as connection:
            dialect.lock_schema(connection)
            config = _config()
            _refuse_newer(connection, config, db.name)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            dialect.forget_foreign_events(connection)
        return _newest(config)
    finally:
        db.close()


def check_schema(db: Database) -> None:
    """Raises SchemaOutdated unless the schema is exactly the one this code was written for."""
    config = _config()
    with db.read() as connection:
        _refuse_newer(connection, config, db.name)
        revision = _revision(connection)
    if revision != _newest(config):
        found = f"is at revision {revision}" if revision else "is empty"
        raise SchemaOutdated(
            f"the database {db.name} {found}, this farm needs {_newest(config)}", "run: farm migrate"
        )


def migrations_folder() -> Path:
    """Beside the packages in a checkout, inside this one in a wheel."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "migrations", here.parents[2] / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise SchemaOutdated("this installation has no migrations", "reinstall turbofarm")


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    # Percent signs in a path would be read as references between options.
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    return config


def _newest(config: "Config") -> str:
    from alembic.script import ScriptDirectory

    head = ScriptDirectory.from_config(config).get_current_head()
    assert head is not None
    return head


def _revision(connection: Connection) -> str | None:
    from alembic.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(connection: Connection, config: "Config", name: str) -> None:
    from alembic.script import ScriptDirectory

    revision = _revision(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise SchemaOutdated(
            f"the database {name} is at revision {revision}, which a newer turbofarm made", "upgrade turbofarm"
        )
