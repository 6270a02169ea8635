"""The registry: each part of the presets, where it is published, under which licence. Data in registry.toml."""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from farm.domain.errors import InvalidRequest
from model.library import Kind, Library, needed
from model.wan.config import Preset

PLAIN = "plain"


@dataclass(frozen=True)
class KnownFile:
    """What this version of the farm knows of a published file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """One repository that has a part. `files`: patterns by role (weights | high | low | tokenizer)."""

    hubs: tuple[str, ...]
    repository: str
    revision: str
    variant: str
    about: int  # bytes of the download
    files: Mapping[str, tuple[str, ...]]

    def role(self, path: str) -> str | None:
        """What the file at `path` in the repository is for; None: not needed."""
        return next((role for role, patterns in self.files.items() if any(_is(path, p) for p in patterns)), None)

    def role_by_name(self, name: str) -> str | None:
        """The same by the file's own name, wherever it lies."""
        patterns = ((role, PurePosixPath(p).name) for role, ps in self.files.items() for p in ps)
        return next((role for role, pattern in patterns if fnmatch(name, pattern) and "*" not in pattern), None)


@dataclass(frozen=True)
class Part:
    """A component of the model library, as it is published."""

    name: str
    kind: Kind
    licence: str
    sources: tuple[Source, ...]

    def source(self, hub: str | None, variant: str = PLAIN) -> Source:
        """Where `hub` has it (None: anywhere). A part that comes in one form only is had in that one.

        Raises InvalidRequest saying where it can be had.
        """
        forms = {source.variant for source in self.sources}
        wanted = variant if len(forms) > 1 else next(iter(forms))
        found = [s for s in self.sources if s.variant == wanted and (hub is None or hub in s.hubs)]
        if found:
            return found[0]
        there = sorted({hub for source in self.sources for hub in source.hubs})
        if wanted not in forms:
            raise InvalidRequest(
                f"{self.name} has no form {variant!r}", f"choose one of: {', '.join(forms)}", "variant"
            )
        raise InvalidRequest(
            f"{self.name} is not published on {hub}", f"use --from {' or '.join(there)}, or a folder", "from"
        )


@dataclass(frozen=True)
class Registry:
    parts: Mapping[str, Part]
    known: Mapping[str, KnownFile]

    def of(self, preset: Preset) -> list[Part]:
        """The parts of a model, its own last: what models share is small or there already."""
        own, vae, text = needed(preset)
        missing = [name for name in (vae, text, own) if name not in self.parts]
        if missing:
            raise InvalidRequest(
                f"no source is known for {', '.join(missing)}",
                f"import it from files: farm models import {preset.name} PATH...",
                "name",
            )
        return [self.parts[name] for name in (vae, text, own)]

    def licence(self, preset: Preset) -> str:
        part = self.parts.get(preset.name)
        return part.licence if part is not None else "Apache-2.0" if preset.weights is not None else "unknown"

    def to_fetch(self, library: Library, preset: Preset) -> int:
        """About how many bytes of it are not here yet."""
        parts = (self.parts.get(name) for name in library.missing(preset))
        return sum(part.sources[0].about for part in parts if part is not None)


@functools.cache
def registry() -> Registry:
    """The one that this version ships."""
    return read((Path(__file__).parent / "registry.toml").read_text("utf-8"))


def read(text: str) -> Registry:
    said: dict[str, Any] = tomllib.loads(text)
    known = {name: KnownFile(**facts) for name, facts in said.get("known", {}).items()}
    parts = {
        name: Part(name, part["kind"], part["licence"], tuple(_source(one) for one in part["sources"]))
        for name, part in said["parts"].items()
    }
    return Registry(parts, known)


def _source(said: dict[str, Any]) -> Source:
    return Source(
        hubs=tuple(said["hubs"]), repository=said["repository"], revision=said.get("revision", "main"),
        variant=said.get("variant", PLAIN), about=said["about"],
        files={role: tuple(patterns) for role, patterns in said["files"].items()},
    )  # fmt: skip


def _is(path: str, pattern: str) -> bool:
    # A star must not reach into folders: "*.json" of a repository is not every JSON file below it.
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)
