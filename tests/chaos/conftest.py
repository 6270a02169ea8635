"""A database of each product in turn, where a commit waits for no disk: it is not disks that are tested here."""

from collections.abc import Iterator

import pytest

from tests.chaos.histories import fresh_url
from tests.db.conftest import fresh, new_database, new_file, new_in_server, product

__all__ = ["fresh", "new_database", "new_file", "new_in_server", "product"]


@pytest.fixture
def in_memory(product: str, request: pytest.FixtureRequest) -> Iterator[str]:
    if product == "postgres":
        yield request.getfixturevalue("fresh")()
        return
    with fresh_url("sqlite") as url:
        yield url
