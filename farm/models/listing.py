"""`farm models list`: every model there is, here or to be had."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.models.lock import INCOMING
from farm.models.on_disk import size_of
from farm.models.registry import Registry
from model.library import Library, needed
from model.wan.config import Preset


@dataclass(frozen=True)
class Row:
    """One model. `bytes`: all its files here; `to_fetch`: about what a pull would bring; `workers`: None if no
    farm answers, else how many living ones can load it."""

    name: str
    task: str
    installed: bool
    state: str  # yes | no | partly | packaged
    bytes: int
    to_fetch: int
    licence: str
    source: str
    digest: str | None
    workers: int | None


def listing(folder: Path, registry: Registry, farm: Mapping[str, Mapping[str, Any]] | None) -> list[Row]:
    """`farm`: what a running farm says of each model; models that only its workers have are listed, too."""
    library = Library(folder)
    rows = [_row(library, registry, preset, farm) for preset in library.known().values()]
    names = {row.name for row in rows}
    for name, model in (farm or {}).items():
        if name not in names:
            rows.append(
                Row(
                    name, model["task"], False, "no", 0, 0, "unknown", "workers of the farm", model["digest"],
                    model["workers"],
                )
            )  # fmt: skip
    return rows


def _row(library: Library, registry: Registry, preset: Preset, farm: Mapping[str, Mapping[str, Any]] | None) -> Row:
    missing = library.missing(preset)
    packaged = preset.weights is not None
    here = not missing
    some = len(missing) < len(needed(preset)) or _fetching(library, preset)
    return Row(
        name=preset.name, task=preset.task, installed=here,
        state="packaged" if packaged and here else "yes" if here else "partly" if some else "no",
        bytes=size_of(library, preset), to_fetch=registry.to_fetch(library, preset),
        licence=registry.licence(preset), source=_source(library, registry, preset),
        digest=library.digest(preset) if here else None,
        workers=None if farm is None else int(farm.get(preset.name, {}).get("workers") or 0),
    )  # fmt: skip


def _fetching(library: Library, preset: Preset) -> bool:
    return any((library.folder / INCOMING / name).is_dir() for name in needed(preset))


def _source(library: Library, registry: Registry, preset: Preset) -> str:
    if preset.weights is not None:
        return "comes with turbofarm"
    component = library.component(preset.name)
    if component is not None:
        return component.source.split(" ")[0]
    part = registry.parts.get(preset.name)
    return f"{part.sources[0].hubs[0]}:{part.sources[0].repository}" if part is not None else "-"
