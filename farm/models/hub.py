"""The places that models are pulled from: Hugging Face, ModelScope, a folder. Each lists files with checksums."""

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import quote, urljoin

from farm.domain.errors import InvalidRequest
from farm.models.errors import HubUnreachable, NotOnHub
from farm.models.registry import Source
from farm.models.web import Passing, Web

TRIES = 6
T = TypeVar("T")


class Running(Protocol):
    """A checksum that grows with the content."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


@dataclass(frozen=True)
class Checksum:
    """sha256 of the content; or git's sha1, which hubs keep for files that are not large."""

    kind: Literal["sha256", "git"]
    value: str

    def start(self, size: int) -> Running:
        return hashlib.sha256() if self.kind == "sha256" else hashlib.sha1(b"blob %d\0" % size)


@dataclass(frozen=True)
class HubFile:
    """One file of a repository: `path` in it, and where it can be had (an address, or a path of this machine)."""

    path: str
    role: str
    bytes: int
    checksum: Checksum | None
    url: str = ""
    local: Path | None = None


@dataclass(frozen=True)
class Listing:
    """The files of one source that are needed. `name` says where they come from, for the manifest."""

    name: str
    files: tuple[HubFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


class Hub(Protocol):
    name: str
    web: Web | None  # None: nothing is fetched

    def files_of(self, source: Source) -> Listing:
        """The source's files there. Raises NotOnHub, HubRefused, HubUnreachable."""
        ...


def open_hub(where: str, environment: Mapping[str, str] = os.environ) -> Hub:
    """huggingface, modelscope, or the path of a folder. Raises InvalidRequest."""
    if where == "huggingface":
        return HuggingFace(
            environment.get("HF_ENDPOINT") or "https://huggingface.co", environment.get("HF_TOKEN") or None
        )
    if where == "modelscope":
        return ModelScope(environment.get("MODELSCOPE_ENDPOINT") or "https://modelscope.cn")
    folder = Path(where).expanduser().absolute()
    if folder.is_dir():
        return Folder(folder)
    raise InvalidRequest(
        f"{where!r} is neither a hub nor a folder",
        "use --from huggingface, modelscope or the path of a folder",
        "from",
    )


class HuggingFace:
    """https://huggingface.co/docs/hub/api; HF_ENDPOINT names a mirror."""

    name = "huggingface"

    def __init__(self, endpoint: str, token: str | None = None) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.web: Web | None = Web(self.endpoint, token)
        self._web = self.web

    def files_of(self, source: Source) -> Listing:
        api = f"{self.endpoint}/api/models/{source.repository}"
        revision, _ = patiently(lambda: self._web.json(f"{api}/revision/{quote(source.revision, safe='')}"))
        commit = str(_field(revision, "sha"))
        entries: list[Any] = []
        url: str | None = f"{api}/tree/{commit}?recursive=true"
        while url:
            page, headers = patiently(lambda url=url: self._web.json(url))
            entries += page
            url = _next(headers.get("Link"), url)
        found = [self._file(entry, source, commit) for entry in entries if entry.get("type") == "file"]
        return _listing(f"{self.name}:{source.repository}@{commit[:12]}", source, [f for f in found if f])

    def _file(self, entry: dict[str, Any], source: Source, commit: str) -> HubFile | None:
        path = str(_field(entry, "path"))
        role = source.role(path)
        if role is None:
            return None
        large: dict[str, Any] = entry.get("lfs") or {}
        checksum = Checksum("sha256", large["oid"]) if large else Checksum("git", str(_field(entry, "oid")))
        url = f"{self.endpoint}/{source.repository}/resolve/{commit}/{quote(path)}"
        return HubFile(path, role, int(large.get("size") or _field(entry, "size")), checksum, url)


class ModelScope:
    """Its file list names sha256 and size; MODELSCOPE_ENDPOINT names a mirror."""

    name = "modelscope"

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.web: Web | None = Web(self.endpoint)
        self._web = self.web

    def files_of(self, source: Source) -> Listing:
        revision = "master" if source.revision == "main" else source.revision
        api = f"{self.endpoint}/api/v1/models/{source.repository}/repo/files"
        said, _ = patiently(lambda: self._web.json(f"{api}?Revision={quote(revision)}&Recursive=true"))
        found: list[HubFile] = []
        for entry in _field(_field(said, "Data"), "Files"):
            path = str(_field(entry, "Path"))
            role = source.role(path)
            if role is None or entry.get("Type") == "tree":
                continue
            sha256 = entry.get("Sha256")
            url = f"{self.endpoint}/models/{source.repository}/resolve/{quote(revision)}/{quote(path)}"
            checksum = Checksum("sha256", sha256) if sha256 else None
            found.append(HubFile(path, role, int(_field(entry, "Size")), checksum, url))
        return _listing(f"{self.name}:{source.repository}@{revision}", source, found)


class Folder:
    """A folder with the same file names: <folder>/<owner>/<repository>/..., <folder>/<repository>/... or flat.

    Checksums come from a SHA256SUMS beside the files, where there is one.
    """

    name = "folder"
    web: Web | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files_of(self, source: Source) -> Listing:
        places = [source.repository, source.repository.rpartition("/")[2], "."]
        listings = [self._look(self.folder / place, source) for place in places]
        best = max(listings, key=lambda found: len({file.role for file in found}))
        return _listing(f"folder:{self.folder}", source, best)

    def _look(self, root: Path, source: Source) -> list[HubFile]:
        sums = read_sums(root / "SHA256SUMS")
        found: list[HubFile] = []
        for role, patterns in source.files.items():
            for pattern in patterns:
                for path in sorted(root.glob(pattern)):
                    name = path.relative_to(root).as_posix()
                    sha256 = sums.get(name)
                    checksum = Checksum("sha256", sha256) if sha256 else None
                    found.append(HubFile(name, role, path.stat().st_size, checksum, local=path))
        return found


def read_sums(path: Path) -> dict[str, str]:
    """A file as sha256sum writes it: checksum by name; {} where there is none."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        return {}
    found = (re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)", line.strip()) for line in lines)
    return {match[2]: match[1].lower() for match in found if match}


def patiently(ask: Callable[[], T]) -> T:
    """Asks again after passing faults. Raises HubUnreachable once TRIES are used up."""
    for turn in range(TRIES):
        try:
            return ask()
        except Passing as fault:
            if turn == TRIES - 1:
                raise HubUnreachable(
                    f"{fault}, after {TRIES} tries",
                    "check the network (and HTTPS_PROXY), or use --from with a folder",
                ) from None
            time.sleep(pause(turn, fault))
    raise AssertionError("unreachable")


def pause(turn: int, fault: Passing) -> float:
    """Seconds before the next try: doubled each time, or as the server asks."""
    return min(fault.wait if fault.wait is not None else 0.5 * 2**turn, 60.0)


def _listing(name: str, source: Source, files: list[HubFile]) -> Listing:
    have = {file.role for file in files}
    for role, patterns in source.files.items():
        if role not in have:
            raise NotOnHub(
                f"{name} has no {' or '.join(patterns)}",
                f"it is published in {source.repository}: is this the place?",
            )
    return Listing(name, tuple(files))


def _next(link: str | None, url: str) -> str | None:
    found = re.search(r'<([^>]+)>;\s*rel="next"', link or "")
    return urljoin(url, found[1]) if found else None


def _field(said: Any, name: str) -> Any:
    try:
        return said[name]
    except (KeyError, TypeError):
        raise HubUnreachable(
            f"the hub's answer has no {name!r}", "it may have changed: upgrade turbofarm"
        ) from None
