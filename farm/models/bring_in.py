"""From files on this disk into the model library: which file is which part, and the import of each.

The only door to model.checkpoints, and so to torch: it opens when something is imported, not before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from farm.domain.errors import InvalidRequest
from farm.domain.folders import folder_error
from farm.models.errors import ImportFailed
from farm.models.fetch import Say
from farm.models.registry import Part, Registry
from model.errors import ModelError
from model.library import Component, Library, needed
from model.wan.config import Preset


@dataclass(frozen=True)
class Given:
    """Where one part's files lie, by role: weights, or high and low of two experts, and a tokenizer's folder."""

    weights: Path | None = None
    high: Path | None = None
    low: Path | None = None
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Files:
    """What a person points at, part by part; None: not given."""

    transformer: Path | None = None
    low: Path | None = None
    vae: Path | None = None
    text_encoder: Path | None = None
    tokenizer: Path | None = None


def bring_in(library: Library, preset: Preset, part: Part, given: Given, source: str, say: Say) -> Component:
    """Imports one part; the library has it whole, or not at all. Raises ImportFailed, DiskFull."""
    from model.checkpoints import importing

    def told(name: str, done: int, total: int) -> None:
        say(f"importing {name}", done, total)

    try:
        if part.kind == "vae":
            return importing.import_vae(library, preset, _there(given.weights, part), source, told)
        if part.kind == "text_encoder":
            return importing.import_text_encoder(
                library, preset, _there(given.weights, part), _there(given.tokenizer, part), source, told
            )
        high = given.high or given.weights
        return importing.import_transformer(library, preset, _there(high, part), given.low, source, told)
    except ModelError as error:
        raise ImportFailed(error.message, error.next) from error
    except OSError as error:
        raise folder_error(error, library.folder) from error


def sort_out(registry: Registry, preset: Preset, paths: Sequence[Path], named: Files) -> Files:
    """Which of `paths` is which part: by the names they are published under. `named` was said outright.

    Raises InvalidRequest for a path that is nothing of this model.
    """
    found = named
    for path in paths:
        if not path.exists():
            raise InvalidRequest(f"{path} does not exist", "check the path", "path")
        told = _in_folder(path, preset) if path.is_dir() else _by_name(registry, preset, path)
        told = Files(**{k: v for k, v in vars(told).items() if v is not None and getattr(named, k) is None})
        if told == Files():
            if found.transformer is None and preset.boundary is None and path.is_file():
                told = Files(transformer=path)  # people name their own checkpoints as they like
            else:
                raise InvalidRequest(
                    f"{path} is nothing that {preset.name} is made of",
                    "say what it is: --transformer, --low, --vae, --text-encoder or --tokenizer PATH",
                    "path",
                )
        found = replace(found, **{k: v for k, v in vars(told).items() if v is not None})
    return found


def given_parts(library: Library, preset: Preset, files: Files) -> list[tuple[str, Given]]:
    """The parts to import, what models share first. Raises InvalidRequest where one would still be missing."""
    own, vae, text = needed(preset)
    parts: list[tuple[str, Given]] = []
    if files.vae is not None:
        parts.append((vae, Given(weights=files.vae)))
    if files.text_encoder is not None:
        if files.tokenizer is None:
            raise InvalidRequest(
                "a text encoder needs its tokenizer",
                "add the folder with its spiece.model or tokenizer.json",
                "path",
            )
        parts.append((text, Given(weights=files.text_encoder, tokenizer=files.tokenizer)))
    if files.transformer is not None:
        parts.append((own, Given(high=files.transformer, low=files.low)))
    if not parts:
        raise InvalidRequest("there is nothing to import", "name files or folders of the model", "path")
    lacking = [name for name in library.missing(preset) if name not in dict(parts)]
    if own in lacking:
        raise InvalidRequest(
            f"{own} itself is not among the files", "add its checkpoint: --transformer PATH", "path"
        )
    return parts


def _there(path: Path | None, part: Part) -> Path:
    if path is None:
        raise ImportFailed(f"{part.name} is incomplete", "give all of its files")
    return path


def _in_folder(folder: Path, preset: Preset) -> Files:
    from model.checkpoints.importing import look_into

    if any((folder / name).is_file() for name in ("spiece.model", "tokenizer.json")):
        return Files(tokenizer=folder)
    there = look_into(folder)
    return Files(there.transformer, there.low, there.vae, there.text_encoder, there.tokenizer)


def _by_name(registry: Registry, preset: Preset, path: Path) -> Files:
    own, vae, text = needed(preset)
    fields = {
        (own, "weights"): "transformer", (own, "high"): "transformer", (own, "low"): "low",
        (vae, "weights"): "vae", (text, "weights"): "text_encoder",
    }  # fmt: skip
    for (name, role), field in fields.items():
        part = registry.parts.get(name)
        if part is not None and any(source.role_by_name(path.name) == role for source in part.sources):
            return Files(**{field: path})
    return Files()
