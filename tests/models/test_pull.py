"""A pull ends with the right files in the library, or with a clear error and no half-made component."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from farm.domain.errors import DiskFull, FarmError, InvalidRequest
from farm.models import fetch as fetching
from farm.models import pull as pulling
from farm.models.bring_in import Given
from farm.models.errors import HubRefused, HubUnreachable, ImportFailed, LibraryBusy, NotOnHub, WrongFile
from farm.models.hub import Checksum, HubFile, HuggingFace, open_hub
from farm.models.lock import library_lock
from farm.models.registry import Part, Registry
from farm.models.web import Web
from model.library import Component, Library
from model.wan.config import Preset
from tests.library import I2V, write_component
from tests.models.conftest import SHARED, TINY
from tests.models.hub_server import COMMIT, FakeHub, serving


def quiet(what: str, done: int, total: int) -> None: ...


class Imports:
    """In place of the real import: notes what it was given, and makes a component of it."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, bytes]] = {}
        self.sources: dict[str, str] = {}

    def __call__(
        self, library: Library, preset: Preset, part: Part, given: Given, source: str, say: Any
    ) -> Component:
        self.sources[part.name] = source
        self.seen[part.name] = {
            f"{role}:{file.name}": file.read_bytes()
            for role, path in vars(given).items()
            if path is not None
            for file in ([path] if path.is_file() else sorted(path.iterdir()))
            if file.is_file()
        }
        own = preset if part.kind == "transformer" else None
        return write_component(library.folder, part.name, part.kind, preset=own)


def pull(library: Library, registry: Registry, hub: Any, imports: Any = None, variant: str = "plain") -> Imports:
    imports = imports or Imports()
    planned = pulling.plan(library, registry, I2V, hub, variant)
    pulling.pull(library, planned, hub, quiet, imports)
    return imports


def nothing_half_made(library: Library) -> bool:
    return set(library.components()) == {p.parent.name for p in library.folder.glob("*/manifest.json")}


def test_a_model_and_its_parts_come_whole_and_know_where_they_are_from(
    server: FakeHub, library: Library, registry: Registry
) -> None:
    seen = pull(library, registry, HuggingFace(server.url))
    assert library.missing(I2V) == []
    assert seen.seen["wan2.1-vae"] == {"weights:vae.pth": SHARED["vae.pth"]}
    assert seen.seen["umt5-xxl"] == {
        "weights:t5.pth": SHARED["t5.pth"], "tokenizer:spiece.model": b"pieces",
        "tokenizer:tokenizer.json": b'{"a": 1}',
    }  # fmt: skip
    assert seen.seen[I2V.name] == {
        **{f"high:{n.removeprefix('high/')}": TINY[n] for n in TINY if n.startswith("high/")},
        "low:low.pth": TINY["low.pth"],
    }
    source = seen.sources["wan2.1-vae"]
    assert source.startswith(f"huggingface:wan/shared@{COMMIT[:12]} ")
    assert f"vae.pth sha256:{hashlib.sha256(SHARED['vae.pth']).hexdigest()}" in source
    assert [p.name for p in (library.folder / ".incoming").iterdir()] == ["lock"]


def test_what_is_there_is_not_fetched_again(server: FakeHub, library: Library, registry: Registry) -> None:
    write_component(library.folder, "wan2.1-vae", "vae")
    hub = HuggingFace(server.url)
    assert pulling.plan(library, registry, I2V, hub).there == ("wan2.1-vae",)
    assert "wan2.1-vae" not in pull(library, registry, hub).seen
    asked = len(server.asked)
    assert pulling.plan(library, registry, I2V, hub).wanted == ()
    assert len(server.asked) == asked


def test_the_eight_bit_form_is_another_file_of_the_same_model(
    server: FakeHub, library: Library, registry: Registry
) -> None:
    seen = pull(library, registry, HuggingFace(server.url), variant="int8")
    assert seen.seen[I2V.name] == {"high:high-quant.pth": b"8bit", "low:low-quant.pth": b"8bits"}


def test_modelscope_speaks_its_own_language(server: FakeHub, library: Library, registry: Registry) -> None:
    write_component(library.folder, "umt5-xxl", "text_encoder")
    hub = open_hub("modelscope", {"MODELSCOPE_ENDPOINT": server.url})
    seen = pull(library, registry, hub)
    assert seen.seen["wan2.1-vae"] == {"weights:vae.pth": SHARED["vae.pth"]}
    assert "vae.pth sha256:" in seen.sources["wan2.1-vae"]


def test_a_part_that_a_hub_does_not_have_is_said_with_the_hub_that_has_it(
    server: FakeHub, library: Library, registry: Registry
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        pull(library, registry, open_hub("modelscope", {"MODELSCOPE_ENDPOINT": server.url}))
    assert "umt5-xxl is not published on modelscope" in caught.value.message
    assert "huggingface" in caught.value.next


def test_cut_connections_are_resumed_where_they_broke(
    server: FakeHub, library: Library, registry: Registry
) -> None:
    server.cuts = [1000, 50_000, 0, 1, 7]
    seen = pull(library, registry, HuggingFace(server.url))
    assert seen.seen["wan2.1-vae"] == {"weights:vae.pth": SHARED["vae.pth"]}
    assert server.ranges[:6] == ["", "bytes=1000-", "bytes=51000-", "bytes=51000-", "bytes=51001-", "bytes=51008-"]


def test_a_server_without_ranges_starts_the_file_anew(
    server: FakeHub, library: Library, registry: Registry
) -> None:
    server.knows_ranges = False
    server.cuts = [1000, 2000]
    assert (
        pull(library, registry, HuggingFace(server.url)).seen["wan2.1-vae"]["weights:vae.pth"] == SHARED["vae.pth"]
    )


def test_passing_faults_are_tried_again(server: FakeHub, library: Library, registry: Registry) -> None:
    server.statuses = [500, 503, 429]
    assert "wan2.1-vae" in pull(library, registry, HuggingFace(server.url)).seen


def test_a_line_that_stays_broken_is_given_up_and_the_next_pull_goes_on(
    server: FakeHub, library: Library, registry: Registry
) -> None:
    server.cuts = [70_000] + [0] * 40
    with pytest.raises(HubUnreachable) as caught:
        pull(library, registry, HuggingFace(server.url))
    assert "70000 of 90000 bytes" in caught.value.message
    assert "same command again" in caught.value.next
    assert library.components() == {}
    server.cuts = []
    server.asked.clear()
    pull(library, registry, HuggingFace(server.url))
    assert server.ranges[0] == "bytes=70000-"
    assert library.missing(I2V) == []


def test_damage_in_what_was_left_is_found_when_the_file_is_whole(
    server: FakeHub, library: Library, registry: Registry
) -> None:
    server.cuts = [70_000] + [0] * 40
    with pytest.raises(HubUnreachable):
        pull(library, registry, HuggingFace(server.url))
    part = library.folder / ".incoming" / "wan2.1-vae" / "vae.pth.part"
    part.write_bytes(b"X" + part.read_bytes()[1:])
    server.cuts = []
    with pytest.raises(WrongFile) as caught:
        pull(library, registry, HuggingFace(server.url))
    assert "earlier one" in caught.value.next
    pull(library, registry, HuggingFace(server.url))
    assert library.missing(I2V) == []


def test_what_an_earlier_revision_left_is_not_continued(
    server: FakeHub, library: Library, registry: Registry
) -> None:
    server.cuts = [70_000] + [0] * 40
    with pytest.raises(HubUnreachable):
        pull(library, registry, HuggingFace(server.url))
    server.cuts = []
    server.asked.clear()
    server.add("wan/shared", {**SHARED, "vae.pth": b"VAE" * 30_000})
    assert pull(library, registry, HuggingFace(server.url)).seen["wan2.1-vae"]["weights:vae.pth"] == b"VAE" * 30_000
    assert server.ranges[0] == ""


@pytest.mark.parametrize(
    ("break_it", "error", "words"),
    [
        (lambda s: s.lies.update({"vae.pth": {"oid": "0" * 64}}), WrongFile, "checksum"),
        (
            lambda s: s.lies.update({"vae.pth": {"size": 80_000}}),
            WrongFile,
            "bytes there, announced were 80000",
        ),
        (
            lambda s: s.lies.update({"vae.pth": {"size": 99_000}}),
            WrongFile,
            "bytes there, announced were 99000",
        ),
        (lambda s: s.serves.update({"vae.pth": b"VAE" * 30_000}), WrongFile, "checksum"),
        (lambda s: s.serves.update({"google/t5/tokenizer.json": b'{"a": 2}'}), WrongFile, "git checksum"),
        (lambda s: s.repositories.pop("wan/shared"), NotOnHub, "/api/models/wan/shared"),
        (lambda s: s.repositories["wan/shared"].files.pop("t5.pth") and None, NotOnHub, "no t5.pth"),
        (lambda s: setattr(s, "token", "secret"), HubRefused, "401"),
        (lambda s: s.statuses.extend([403]), HubRefused, "403"),
        (lambda s: s.statuses.extend([404]), NotOnHub, "vae.pth"),
        (lambda s: s.statuses.extend([500] * 50), HubUnreachable, "answers 500"),
        (lambda s: s.statuses.extend([418]), HubUnreachable, "418"),
    ],
)
def test_every_fault_ends_in_a_clear_error_and_nothing_half_made(
    server: FakeHub, library: Library, registry: Registry, break_it: Any, error: type[FarmError], words: str
) -> None:
    server.add("wan/shared", dict(SHARED), small={"google/t5/tokenizer.json"})
    break_it(server)
    with pytest.raises(error) as caught:
        pull(library, registry, HuggingFace(server.url))
    assert words in caught.value.message
    assert caught.value.next
    assert nothing_half_made(library)
    assert I2V.name not in library.components()


def test_a_published_file_that_was_swapped_is_refused_whatever_the_hub_says(
    server: FakeHub, library: Library, registry: Registry
) -> None:
    known = pulling._expected
    file = HubFile("x/known.pth", "weights", 5, Checksum("sha256", "cd" * 32), "url")
    with pytest.raises(WrongFile, match=r"another x/known\.pth than the published one"):
        known(pulling.Listing("hub", (file,)), registry)
    unnamed = known(pulling.Listing("hub", (HubFile("known.pth", "weights", 5, None, "url"),)), registry)
    assert unnamed.files[0].checksum == Checksum("sha256", "ab" * 32)


def test_the_token_goes_to_the_hub_and_never_to_the_host_it_redirects_to(
    server: FakeHub, library: Library, registry: Registry
) -> None:
    with serving() as elsewhere:
        for name, repository in server.repositories.items():
            elsewhere.add(name, repository.files)
        server.elsewhere, server.token = elsewhere.url, "hf_secret"
        pull(library, registry, HuggingFace(server.url, "hf_secret"))
        assert all(headers.get("Authorization") == "Bearer hf_secret" for _, headers in server.asked)
        assert elsewhere.asked
        assert not any("hf_secret" in str(headers) for _, headers in elsewhere.asked)
    assert "hf_secret" not in repr(HuggingFace(server.url, "hf_secret").web)


def test_a_token_is_not_sent_where_others_can_read_it() -> None:
    import urllib.request

    for url, sent in (("http://hub.example/x", False), ("https://hub.example/x", True)):
        request = urllib.request.Request(url)
        Web(url.removesuffix("/x"), "hf_secret").sign(request)
        assert request.has_header("Authorization") is sent


def test_a_mirror_that_is_no_hub_is_said_to_be_none(library: Library, registry: Registry, server: FakeHub) -> None:
    with pytest.raises(HubUnreachable, match="tries"):
        pull(library, registry, HuggingFace("http://127.0.0.1:9"))
    with pytest.raises(HubUnreachable, match="no address"):
        pull(library, registry, HuggingFace("nonsense"))


def test_too_little_space_is_said_before_anything_is_fetched(
    server: FakeHub, library: Library, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, 10**6))
    with pytest.raises(DiskFull) as caught:
        pull(library, registry, HuggingFace(server.url))
    assert "has 0.0 GB free, 0.1 GB are needed" in caught.value.message
    assert "FARM_MODELS" in caught.value.next
    assert server.ranges == []


def test_a_disk_that_fills_up_keeps_what_has_arrived(
    server: FakeHub, library: Library, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fetching._Download._copy

    def full(self: Any, answer: Any, part: Any) -> None:
        chunk = answer.body.read(1000)
        part.write(chunk)
        self.have += len(chunk)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching._Download, "_copy", full)
    with pytest.raises(DiskFull) as caught:
        pull(library, registry, HuggingFace(server.url))
    assert "same command again" in caught.value.next
    monkeypatch.setattr(fetching._Download, "_copy", real)
    server.asked.clear()
    pull(library, registry, HuggingFace(server.url))
    assert server.ranges[0] == "bytes=1000-"


def test_ctrl_c_leaves_what_can_be_continued(server: FakeHub, library: Library, registry: Registry) -> None:
    hub = HuggingFace(server.url)
    server.cuts = [1000]
    planned = pulling.plan(library, registry, I2V, hub)

    def stop(what: str, done: int, total: int) -> None:
        if done >= 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pulling.pull(library, planned, hub, stop, Imports())
    server.asked.clear()
    pull(library, registry, hub)
    assert server.ranges[0] == "bytes=1000-"


def test_files_that_do_not_hold_the_model_are_kept_and_the_model_is_not_there(
    server: FakeHub, library: Library, registry: Registry
) -> None:
    def refuses(*_: Any) -> Component:
        raise ImportFailed("vae.pth: tensor conv1.weight expected [96], found [95]", "use another")

    with pytest.raises(ImportFailed):
        pull(library, registry, HuggingFace(server.url), refuses)
    assert library.components() == {}
    assert (library.folder / ".incoming" / "wan2.1-vae" / "vae.pth").read_bytes() == SHARED["vae.pth"]


def test_a_second_puller_is_refused_with_the_pid_of_the_first(
    server: FakeHub, library: Library, registry: Registry
) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with library_lock(library.folder, "pull other"):
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    with pytest.raises(LibraryBusy, match=rf"farm models pull other \(pid {os.getpid()}\) is changing"):
        pull(library, registry, HuggingFace(server.url))
    done.set()
    thread.join()
    pull(library, registry, HuggingFace(server.url))


@pytest.mark.parametrize("place", [".", "maker/tiny", "tiny"])
def test_a_folder_with_the_same_names_is_as_good_as_a_hub(
    library: Library, registry: Registry, tmp_path: Path, place: str
) -> None:
    for name, files in ((place, TINY), ("wan/shared", SHARED)):
        for path, content in files.items():
            target = tmp_path / "stick" / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    sums = f"{hashlib.sha256(SHARED['vae.pth']).hexdigest()}  ./vae.pth\n"
    (tmp_path / "stick" / "wan" / "shared" / "SHA256SUMS").write_text(sums)
    seen = pull(library, registry, open_hub(str(tmp_path / "stick")))
    assert seen.seen[I2V.name]["low:low.pth"] == TINY["low.pth"]
    assert library.missing(I2V) == []


def test_a_damaged_copy_in_a_folder_is_refused(library: Library, registry: Registry, tmp_path: Path) -> None:
    for path, content in {**TINY, **SHARED, "SHA256SUMS": f"{'0' * 64}  vae.pth\n".encode()}.items():
        target = tmp_path / "stick" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    with pytest.raises(WrongFile, match="expected 0000"):
        pull(library, registry, open_hub(str(tmp_path / "stick")))
    assert nothing_half_made(library)


def test_a_folder_without_the_files_says_what_is_missing(
    library: Library, registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(NotOnHub, match=r"no vae\.pth"):
        pull(library, registry, open_hub(str(tmp_path)))
    with pytest.raises(InvalidRequest, match="neither a hub nor a folder"):
        open_hub(str(tmp_path / "nowhere"))


def test_the_shipped_registry_covers_every_preset_and_imports_nothing_heavy() -> None:
    code = (
        "from farm.models.registry import registry; from model.wan.config import PRESETS; import sys\n"
        "for p in PRESETS.values():\n"
        "    if p.weights is None:\n"
        "        roles = {r for s in registry().parts[p.name].sources for r in s.files}\n"
        "        assert roles == ({'high', 'low'} if p.boundary else {'weights'}), p.name\n"
        "        assert len(registry().of(p)) == 3\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr
