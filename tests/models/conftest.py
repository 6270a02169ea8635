"""A hub, a registry of small models, and a library: what every test of this folder needs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.models import hub as hub_room
from farm.models.registry import Registry, read
from model.library import Library
from tests.library import I2V
from tests.models.hub_server import FakeHub, serving

REGISTRY = f"""
[known."known.pth"]
bytes = 5
sha256 = "{"ab" * 32}"

[parts."{I2V.name}"]
kind = "transformer"
licence = "MIT"
[[parts."{I2V.name}".sources]]
hubs = ["huggingface", "modelscope"]
repository = "maker/tiny"
about = 1000
files = {{ high = ["high/*.safetensors", "high/*.json"], low = ["low.pth"] }}
[[parts."{I2V.name}".sources]]
hubs = ["huggingface"]
repository = "maker/tiny"
variant = "int8"
about = 500
files = {{ high = ["high-quant.pth"], low = ["low-quant.pth"] }}

[parts."wan2.1-vae"]
kind = "vae"
licence = "MIT"
[[parts."wan2.1-vae".sources]]
hubs = ["huggingface", "modelscope"]
repository = "wan/shared"
about = 300
files = {{ weights = ["vae.pth"] }}

[parts."umt5-xxl"]
kind = "text_encoder"
licence = "MIT"
[[parts."umt5-xxl".sources]]
hubs = ["huggingface"]
repository = "wan/shared"
about = 200
files = {{ weights = ["t5.pth"], tokenizer = ["google/t5/*"] }}
"""
TINY = {
    "high/a-00001.safetensors": bytes(range(256)) * 400, "high/a-00002.safetensors": b"shard two" * 900,
    "high/index.json": b"{}", "low.pth": b"low noise" * 5000, "README.md": b"not needed", "high-quant.pth": b"8bit",
    "low-quant.pth": b"8bits",
}  # fmt: skip
SHARED = {
    "vae.pth": b"vae" * 30_000, "t5.pth": b"t5" * 9000, "google/t5/spiece.model": b"pieces",
    "google/t5/tokenizer.json": b'{"a": 1}', "google/other.json": b"no",
}  # fmt: skip


@pytest.fixture
def registry() -> Registry:
    return read(REGISTRY)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub_room.time, "sleep", lambda _: None)
    with serving() as hub:
        hub.add("maker/tiny", TINY, small={"high/index.json", "README.md"})
        hub.add("wan/shared", SHARED, small={"google/t5/tokenizer.json", "google/other.json"})
        yield hub


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library")
