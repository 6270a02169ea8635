"""A store of each kind in turn, empty at the start of each test."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from farm.storage.folder import FolderStore
from farm.storage.s3 import S3Store
from farm.storage.store import Store
from tests.private_servers import Server

PART = 5 * 2**20  # the smallest that an S3 server takes
_prefixes = (f"test/{n}" for n in itertools.count())


def address(server: Server, prefix: str, bucket: str = "farm") -> str:
    return f"s3://{bucket}/{prefix}?endpoint={server.server.endpoint}"


def keys(server: Server) -> tuple[str, str]:
    return server.server.access_key, server.server.secret_key


@pytest.fixture
def s3_url(seaweedfs: Server) -> str:
    return address(seaweedfs, next(_prefixes))


@pytest.fixture
def s3(seaweedfs: Server, s3_url: str) -> S3Store:
    return S3Store(s3_url, keys(seaweedfs), part=PART)


@pytest.fixture(params=["folder", "s3"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    if request.param == "folder":
        return lambda: FolderStore(tmp_path / "store")
    return lambda: request.getfixturevalue("s3")


@pytest.fixture
def store(new_store: Callable[[], Store]) -> Store:
    return new_store()
