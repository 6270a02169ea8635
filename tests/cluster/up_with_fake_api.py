"""`farm up` with a stand-in for the web process: python -m tests.cluster.up_with_fake_api"""

import sys
from dataclasses import replace

from farm.cluster.children import ChildSpec, children_of
from farm.cluster.supervisor import up
from farm.domain.errors import FarmError
from farm.settings import Settings, load_settings


def children(settings: Settings) -> list[ChildSpec]:
    api = (sys.executable, "-m", "tests.cluster.fake_api")
    return [replace(c, command=api) if c.name == "api" else c for c in children_of(settings)]


if __name__ == "__main__":
    try:
        up(load_settings(), say=lambda line: print(line, flush=True), children=children)
    except FarmError as error:
        sys.exit(f"{error.code}: {error.message}")
