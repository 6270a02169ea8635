"""A model library of random weights in a preset's true shapes: what loading and memory are measured on.

No released weights are needed. Random bf16 matrices of the right scale keep activations finite.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoints.safetensors import write
from model.library import MANIFEST, Component, File, Kind, Library
from model.wan.config import Preset
from model.wan.transformer import WanTransformer
from model.wan.vae import WanVAE

_SHARD = 4 << 30


def fill_library(folder: Path, preset: Preset, device: str) -> Library:
    """Every component that `preset` needs, written below `folder`; what is there already is kept."""
    from model.wan.text_encoder import UMT5TextEncoder

    library = Library(folder)
    present = library.components()
    with torch.device("meta"):
        parts = {
            preset.name: ("transformer", WanTransformer(preset.transformer, preset.topk).state_dict()),
            preset.vae_part: ("vae", WanVAE(preset.vae).state_dict()),
            preset.text_part: ("text_encoder", UMT5TextEncoder(preset.umt5).official()),
        }
    for name, (role, shapes) in parts.items():
        if name not in present:
            _write(folder / name, role, shapes, preset, device)
    return library


def _write(folder: Path, role: Kind, shapes: Mapping[str, Tensor], preset: Preset, device: str) -> None:
    folder.mkdir(parents=True)
    shard: dict[str, Tensor] = {}
    number = size = 0
    for name, shape in shapes.items():
        shard[name] = _random(name, shape, device)
        size += shard[name].nbytes
        if size > _SHARD:
            number, size = _flush(folder, role, number, shard), 0
    _flush(folder, role, number, shard)
    if preset.boundary is not None and role == "transformer":
        for path in sorted(folder.glob("transformer-*")):  # the other expert: the same bytes, once on disk
            os.link(path, folder / path.name.replace("transformer", "low"))
    if role == "text_encoder":
        _tokenizer(folder / "tokenizer")
    files = tuple(
        File(path.relative_to(folder).as_posix(), path.stat().st_size, "")
        for path in sorted(folder.rglob("*")) if path.is_file()
    )  # fmt: skip
    described = preset if role == "transformer" else None
    component = Component(folder.name, role, files, "random", "random", described)
    (folder / MANIFEST).write_text(json.dumps(component.json()), "utf-8")


def _flush(folder: Path, role: str, number: int, shard: dict[str, Tensor]) -> int:
    write(folder / f"{role}-{number + 1:05d}.safetensors", shard)
    shard.clear()
    return number + 1


def _random(name: str, shape: Tensor, device: str) -> Tensor:
    if name.endswith(("norm_q.weight", "norm_k.weight", "norm3.weight", "gamma", "norm1.weight", "norm2.weight")):
        return torch.ones(shape.shape, dtype=torch.bfloat16)
    fan_in = shape[0].numel() if shape.dim() > 1 else 1e4
    return (torch.randn(shape.shape, device=device) / fan_in**0.5).bfloat16().cpu()


def _tokenizer(folder: Path) -> None:
    """Words to ids, as small as a tokenizer can be: how fast text is split is not what is measured."""
    folder.mkdir()
    words = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>"))}
    rules = {"model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}, "added_tokens": []}
    rules |= {"version": "1.0", "pre_tokenizer": {"type": "Whitespace"}}
    rules |= dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    (folder / "tokenizer.json").write_text(json.dumps(rules))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
