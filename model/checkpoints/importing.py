"""Checkpoints in any published layout into the model library: checked, in safetensors, renamed into place whole."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoints import int8, names, pth, safetensors
from model.checkpoints.entries import Checkpoint, Entry
from model.checkpoints.fill import check_shapes
from model.errors import CorruptWeights, ModelError
from model.library import MANIFEST, Component, File, Kind, Library
from model.wan.config import Preset

SHARD = 4 << 30  # bytes of one file; also what an import holds in memory at once
Progress = Callable[[str, int, int], None]  # component, bytes done, bytes in all


@dataclass(frozen=True)
class Sources:
    """Where each part of a model lies: a file, or a folder of shards. None: it is not there."""

    transformer: Path | None
    low: Path | None
    vae: Path | None
    text_encoder: Path | None
    tokenizer: Path | None


def look_into(folder: Path) -> Sources:
    """The parts in a folder as Wan-AI or diffusers publish it, or in one of TurboDiffusion's .pth files."""

    def first(*patterns: str) -> Path | None:
        found = (path for pattern in patterns for path in sorted(folder.glob(pattern)))
        return next(found, None)

    own = folder if any(folder.glob("*.safetensors")) else None
    return Sources(
        transformer=first("high_noise_model", "transformer", "Turbo*high*.pth") or own or first("Turbo*.pth"),
        low=first("low_noise_model", "transformer_2", "Turbo*low*.pth"),
        vae=first("Wan2.1_VAE.pth", "vae"),
        text_encoder=first("models_t5_umt5-xxl-enc-bf16.pth", "text_encoder"),
        tokenizer=first("google/umt5-xxl", "tokenizer"),
    )


def open_checkpoint(path: Path) -> Checkpoint:
    """A .pth, a .safetensors or a folder of shards. Raises CorruptWeights."""
    if path.is_dir():
        return safetensors.open_folder(path)
    if path.suffix in (".pth", ".pt"):
        return pth.open_file(path)
    if path.suffix == ".safetensors":
        return safetensors.open_files([path])
    if not path.exists():
        raise CorruptWeights(f"{path}: no such file", "name a checkpoint's file or folder")
    raise CorruptWeights(f"{path}: not a checkpoint", "name a .pth or .safetensors file, or a folder of shards")


def import_transformer(
    library: Library,
    preset: Preset,
    path: Path,
    low: Path | None = None,
    source: str = "",
    say: Progress | None = None,
) -> Component:
    """The model's own component. `low`: the low-noise expert of a model that has two.

    Raises CorruptWeights naming file, tensor, expected and found; ModelError where an expert is missing or
    too many; OSError where the disk takes no more. Nothing half-made is left.
    """
    if (preset.boundary is None) != (low is None):
        count = "one transformer" if preset.boundary is None else "two: the high-noise and the low-noise expert"
        raise ModelError(f"{preset.name} has {count}", "name one checkpoint for each")
    found = {"transformer": _transformer(path, preset)}
    if low is not None:
        found["low"] = _transformer(low, preset)
    layout = "+".join(sorted({layout for layout, _ in found.values()}))
    roles = {role: checkpoint for role, (_, checkpoint) in found.items()}
    dtype = getattr(torch, preset.dtype)
    return _install(library, preset.name, "transformer", roles, source or str(path), layout, preset, dtype, say=say)


def import_vae(
    library: Library, preset: Preset, path: Path, source: str = "", say: Progress | None = None
) -> Component:
    """The VAE that `preset` names. Raises as import_transformer."""
    from model.wan.vae import WanVAE

    layout, checkpoint = names.vae(open_checkpoint(path), preset.vae)
    with torch.device("meta"):
        check_shapes(checkpoint, WanVAE(preset.vae).state_dict())
    return _install(library, preset.vae_part, "vae", {"vae": checkpoint}, source or str(path), layout, say=say)


def import_text_encoder(
    library: Library, preset: Preset, path: Path, tokenizer: Path, source: str = "", say: Progress | None = None
) -> Component:
    """The text encoder that `preset` names, and the folder of its tokenizer. Raises as import_transformer."""
    from model.wan.text_encoder import UMT5TextEncoder, WanTokenizer

    WanTokenizer(tokenizer)  # refuses what is none
    layout, checkpoint = names.umt5(open_checkpoint(path))
    with torch.device("meta"):
        check_shapes(checkpoint, UMT5TextEncoder(preset.umt5).official())
    return _install(
        library, preset.text_part, "text_encoder", {"text_encoder": checkpoint}, source or str(path), layout,
        tokenizer=tokenizer, say=say,
    )  # fmt: skip


def _transformer(path: Path, preset: Preset) -> tuple[str, Checkpoint]:
    from model.wan.transformer import WanTransformer

    layout, checkpoint = names.transformer(open_checkpoint(path), preset.transformer)
    with torch.device("meta"):
        check_shapes(int8.expanded(checkpoint), WanTransformer(preset.transformer).state_dict())
    return layout, checkpoint


def _install(
    library: Library,
    name: str,
    kind: Kind,
    roles: dict[str, Checkpoint],
    source: str,
    layout: str,
    preset: Preset | None = None,
    dtype: torch.dtype | None = None,
    tokenizer: Path | None = None,
    say: Progress | None = None,
) -> Component:
    made = library.folder / ".incoming" / f"{name}-{secrets.token_hex(4)}"
    made.mkdir(parents=True)
    try:
        tell = _Tally(name, sum(_bytes(c, dtype) for c in roles.values()), say)
        for role, checkpoint in roles.items():
            for number, shard in enumerate(_shards(checkpoint, dtype), start=1):
                safetensors.write(made / f"{role}-{number:05d}.safetensors", shard)
                tell.add(sum(tensor.nbytes for tensor in shard.values()))
        if tokenizer is not None:
            shutil.copytree(tokenizer, made / "tokenizer", ignore=shutil.ignore_patterns(".*", "*.lock"))
        files = tuple(_described(path, made) for path in sorted(made.rglob("*")) if path.is_file())
        component = Component(name, kind, files, source, layout, preset)
        (made / MANIFEST).write_text(json.dumps(component.json(), indent=1), "utf-8")
        _put_in_place(made, library.folder / name)
        return component
    finally:
        shutil.rmtree(made, ignore_errors=True)


class _Tally:
    """Adds up what is written, and tells who listens."""

    def __init__(self, name: str, total: int, say: Progress | None) -> None:
        self.name, self.total, self.say, self.done = name, total, say, 0
        self.add(0)

    def add(self, count: int) -> None:
        self.done += count
        if self.say is not None:
            self.say(self.name, self.done, self.total)


def _shards(checkpoint: Checkpoint, dtype: torch.dtype | None) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, entry in checkpoint.items():
        tensor = _checked(name, entry)
        if dtype is not None and _narrows(name, tensor.shape, tensor.dtype):
            tensor = tensor.to(dtype)
        if shard and size + tensor.nbytes > SHARD:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.contiguous().clone()  # views of one storage cannot be saved
        size += tensor.nbytes
    yield shard


def _checked(name: str, entry: Entry) -> Tensor:
    tensor = entry.read("cpu")
    if name.endswith(int8.CODES):
        if tensor.dtype is not torch.int8:
            raise entry.refuse(f"expected int8, found {tensor.dtype}")
    elif not torch.isfinite(tensor).all():
        raise entry.refuse("holds values that are not finite")
    return tensor


def _narrows(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Matrices are computed with in the model's dtype; biases, norms, modulation and scales stay as they were."""
    return dtype.is_floating_point and len(shape) == 2 and not name.endswith(int8.SCALE)


def _bytes(checkpoint: Checkpoint, dtype: torch.dtype | None) -> int:
    """About: what is not narrowed is small."""
    width = {name: 1 if name.endswith(int8.CODES) else (dtype or torch.float32).itemsize for name in checkpoint}
    return sum(width[name] * torch.Size(entry.shape).numel() for name, entry in checkpoint.items())


def _described(path: Path, below: Path) -> File:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return File(path.relative_to(below).as_posix(), path.stat().st_size, digest)


def _put_in_place(made: Path, final: Path) -> None:
    """The old one is moved aside first: a folder cannot be replaced in one step. Its files, if open, live on."""
    aside = made.with_name(made.name + ".old")
    if final.exists():
        final.rename(aside)
    made.rename(final)
    shutil.rmtree(aside, ignore_errors=True)
