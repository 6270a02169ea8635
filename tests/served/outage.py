"""A served farm whose database and store may be unplugged and plugged in again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from farm.db.engine import Database
from farm.domain.errors import DatabaseUnavailable, StorageUnavailable
from tests.served.farm import Served


class Outage:
    database = False
    store = False


@pytest.fixture
def outage(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outage]:
    """Of the whole process: every door to the database is shut at once."""
    now, through, check = Outage(), Database._transaction, type(served.services.store).check

    @contextmanager
    def transaction(db: Database, writes: bool) -> Iterator[Any]:
        if now.database:
            raise DatabaseUnavailable("cannot reach the database farm on db.studio:5432", "it is tried again")
        with through(db, writes) as connection:
            yield connection

    def asked(store: Any) -> None:
        if now.store:
            raise StorageUnavailable("the store at http://s3 does not answer", "start it")
        check(store)

    monkeypatch.setattr(Database, "_transaction", transaction)
    monkeypatch.setattr(type(served.services.store), "check", asked)
    yield now
    now.database = now.store = False
