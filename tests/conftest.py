"""What tests of several rooms share: one real browser (a second one in the same process cannot start),

one Postgres and one S3 server. Each process of a run that is spread over several has its own.
"""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.private_servers import CARELESS, Server, private_postgres, private_seaweedfs

# What takes longest, whole farms above all, begins first and leaves no process alone at the end of the run.
_SLOW = ("tests/cluster/", "tests/kernels/test_interpreted.py", "tests/line/", "tests/model/")
if "PYTEST_XDIST_WORKER" in os.environ:
    # As many threads as processes: threads that spin while they wait for a core cost many times what they bring.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the farms' workers choose their own number
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(_SLOW))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.fail("no Chromium found: install it with `apt-get install -y chromium fonts-noto-cjk`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """For many short tests. Those that kill theirs start one of their own."""
    with private_postgres(*CARELESS) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[Server]:
    with private_seaweedfs() as server:
        yield server
