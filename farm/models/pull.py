"""`farm models pull`: a model's parts from a hub or folder into the library: planned, fetched, imported."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from farm.domain.errors import DiskFull
from farm.models.bring_in import Given, bring_in
from farm.models.errors import WrongFile
from farm.models.fetch import Say, fetch
from farm.models.hub import Checksum, Folder, Hub, HubFile, Listing
from farm.models.lock import library_lock
from farm.models.registry import PLAIN, Part, Registry, Source
from model.library import Component, Library
from model.wan.config import Preset

SPARE = 64 * 2**20  # bytes that stay free: manifests, and others on the same disk
_NOTE = "source.json"


@dataclass(frozen=True)
class Wanted:
    """A part that is to be had, and the files it is made of."""

    part: Part
    listing: Listing


@dataclass(frozen=True)
class Plan:
    """What a pull will do, before it does it."""

    preset: Preset
    there: tuple[str, ...]  # parts that the library has
    wanted: tuple[Wanted, ...]

    @property
    def bytes(self) -> int:
        return sum(wanted.listing.bytes for wanted in self.wanted)


def plan(library: Library, registry: Registry, preset: Preset, hub: Hub, variant: str = PLAIN) -> Plan:
    """Asks the hub for what is missing. Raises FarmError."""
    missing = library.missing(preset)
    parts = registry.of(preset) if missing else []
    wanted = [
        Wanted(part, _expected(hub.files_of(_source(part, hub, variant)), registry))
        for part in parts
        if part.name in missing
    ]
    return Plan(preset, tuple(part.name for part in parts if part.name not in missing), tuple(wanted))


def pull(
    library: Library,
    plan: Plan,
    hub: Hub,
    say: Say,
    bring_in: Callable[[Library, Preset, Part, Given, str, Say], Component] = bring_in,
) -> list[Component]:
    """Does what was planned. A part is in the library whole or not at all; what has arrived of others stays.

    Raises LibraryBusy, DiskFull, and what fetching and importing raise.
    """
    made: list[Component] = []
    with library_lock(library.folder, f"pull {plan.preset.name}") as incoming:
        still = set(library.missing(plan.preset))  # another pull may have been faster
        wanted = [one for one in plan.wanted if one.part.name in still]
        check_space(library.folder, incoming, wanted)
        for one in wanted:
            folder = incoming / one.part.name
            given = _arrived(one, hub, folder, say)
            source = f"{one.listing.name} {_sums(one.listing)}".strip()
            made.append(bring_in(library, plan.preset, one.part, given, source, say))
            shutil.rmtree(folder, ignore_errors=True)
    return made


def check_space(library: Path, incoming: Path, wanted: Sequence[Wanted]) -> None:
    """Raises DiskFull where the disk cannot hold the download and the library's copy of it side by side."""
    done = peak = 0
    for one in wanted:
        size = one.listing.bytes
        remote = sum(file.bytes for file in one.listing.files if file.local is None)
        peak = max(peak, done + remote - _had(incoming / one.part.name, one.listing) + size)
        done += size
    needed = peak + SPARE if wanted else 0
    free = shutil.disk_usage(library).free
    if needed > free:
        raise DiskFull(
            f"{library} has {_gb(free)} free, {_gb(needed)} are needed (the download and the imported copy of it)",
            "free some space, or put the library elsewhere: FARM_MODELS",
        )


def given_files(folder: Path, listing: Listing) -> Given:
    """The roles of the files below `folder` (or where they lie already), as an import takes them."""
    by_role: dict[str, list[Path]] = {}
    for file in listing.files:
        by_role.setdefault(file.role, []).append(file.local or folder / file.path)
    return Given(**{role: _one(paths) for role, paths in by_role.items()})


def _source(part: Part, hub: Hub, variant: str) -> Source:
    return part.source(None if isinstance(hub, Folder) else hub.name, variant)


def _expected(listing: Listing, registry: Registry) -> Listing:
    """Refuses a file that is not the published one; adds the checksum where the hub names none."""
    files: list[HubFile] = []
    for file in listing.files:
        known = registry.known.get(Path(file.path).name)
        if known is not None:
            other = file.checksum is not None and file.checksum.value != known.sha256
            if file.bytes != known.bytes or (other and file.checksum and file.checksum.kind == "sha256"):
                raise WrongFile(
                    f"{listing.name} has another {file.path} than the published one "
                    f"({file.bytes} bytes, expected {known.bytes} with sha256 {known.sha256})",
                    "use another --from; if the publisher replaced it, upgrade turbofarm",
                )
            file = HubFile(file.path, file.role, file.bytes, Checksum("sha256", known.sha256), file.url, file.local)
        files.append(file)
    return Listing(listing.name, tuple(files))


def _arrived(one: Wanted, hub: Hub, folder: Path, say: Say) -> Given:
    if hub.web is None:
        for file in one.listing.files:
            check_local(file, say)
        return given_files(folder, one.listing)
    _forget_others(folder, one.listing)
    for file in one.listing.files:
        fetch(hub.web, file, folder / file.path, say)
    return given_files(folder, one.listing)


def check_local(file: HubFile, say: Say) -> None:
    """Reads a file of this machine against its checksum. Raises WrongFile."""
    if file.checksum is None or file.local is None:
        return
    total, done = file.checksum.start(file.bytes), 0
    with file.local.open("rb") as content:
        while chunk := content.read(1 << 20):
            total.update(chunk)
            done += len(chunk)
            say(file.path, done, file.bytes)
    kind, wanted = file.checksum.kind, file.checksum.value
    if total.hexdigest() != wanted:
        raise WrongFile(
            f"{file.local} has the {kind} checksum {total.hexdigest()}, expected {wanted}",
            "copy it again",
        )


def _forget_others(folder: Path, listing: Listing) -> None:
    """What an earlier pull left of another revision, or another hub's, is not continued."""
    facts = {file.path: [file.bytes, file.checksum and asdict(file.checksum)] for file in listing.files}
    note = folder / _NOTE
    try:
        before: dict[str, Any] = json.loads(note.read_text("utf-8"))
    except (OSError, ValueError):
        before = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        name = path.relative_to(folder).as_posix().removesuffix(".part")
        if path.is_file() and path != note and (name not in facts or before.get(name) != facts[name]):
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(facts), "utf-8")


def _had(folder: Path, listing: Listing) -> int:
    """Bytes that are on this disk already."""
    names = [folder / (file.path + end) for file in listing.files for end in ("", ".part")]
    return sum(path.stat().st_size for path in names if path.is_file())


def _sums(listing: Listing) -> str:
    return ", ".join(f"{f.path} {f.checksum.kind}:{f.checksum.value}" for f in listing.files if f.checksum)


def _one(paths: list[Path]) -> Path:
    """The file, or the folder of the shards."""
    return paths[0] if len(paths) == 1 else paths[0].parent


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
