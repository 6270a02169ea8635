"""Wan models small enough for a CPU, randomly filled, written in every layout that checkpoints come in."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kernels import reference
from model.checkpoints.importing import import_text_encoder, import_transformer, import_vae, look_into
from model.library import Library
from model.wan.config import Preset, TransformerConfig, UMT5Shapes, VAEConfig
from model.wan.text_encoder import UMT5TextEncoder
from model.wan.transformer import WanTransformer
from model.wan.vae import WanVAE

Tensors = dict[str, Tensor]
UMT5 = UMT5Shapes(vocabulary=96, dim=32, attention_dim=32, ffn_dim=48, heads=4, layers=2, text_len=24)
VAE = VAEConfig(dim=8)
_SHAPES = TransformerConfig(dim=96, ffn_dim=160, heads=2, layers=2, text_dim=32, text_len=24)


def _preset(name: str, **more) -> Preset:
    return Preset(
        name=name, vae=VAE, text_encoder="umt5-xxl", size=(64, 48), min_side=32, max_side=96, max_pixels=96 * 64,
        frames=9, max_frames=17, fps=16, umt5=UMT5, vae_part="small-vae", text_part="small-umt5", dtype="float32",
        **more,
    )  # fmt: skip


# Distilled, with the linear branch; and as Wan was published: two experts, image to video, guidance.
TURBO = _preset(
    "small-t2v", task="t2v", steps=2, max_steps=4, distilled=True, topk=0.5,
    transformer=TransformerConfig(**{**_SHAPES.__dict__, "sla": True}),
)  # fmt: skip
BASE = _preset(
    "small-i2v-base", task="i2v", steps=3, max_steps=8, distilled=False, guidance=2.0, shift=3.0, boundary=0.9,
    negative_prompt="low quality", transformer=TransformerConfig(**{**_SHAPES.__dict__, "in_channels": 36}),
)  # fmt: skip


@cache
def transformer(preset: Preset, seed: int = 0) -> WanTransformer:
    torch.manual_seed(seed)
    return WanTransformer(preset.transformer, preset.topk).eval()


@cache
def vae() -> WanVAE:
    torch.manual_seed(2)
    return WanVAE(VAE).eval()


@cache
def text_encoder() -> UMT5TextEncoder:
    torch.manual_seed(3)
    return UMT5TextEncoder(UMT5).eval()


def turbo(preset: Preset, quantised: bool = False, seed: int = 0) -> Tensors:
    """As TurboDiffusion saves a transformer."""
    tensors: Tensors = {}
    for name, tensor in transformer(preset, seed).state_dict().items():
        layer, _, kind = name.rpartition(".")
        linear = name.startswith("blocks.") and layer.endswith((".q", ".k", ".v", ".o", "ffn.0", "ffn.2"))
        if quantised and linear and kind == "weight":
            codes, scale = reference.quantize_blocks(tensor)
            tensors |= {f"{layer}.int8_weight": codes, f"{layer}.scale": scale}
        elif quantised and linear:
            tensors[name] = tensor.bfloat16()
        else:
            tensors[name.replace("self_attn.proj_l", "self_attn.attn_op.local_attn.proj_l")] = tensor
    return tensors


def wan(preset: Preset, seed: int = 0) -> Tensors:
    """As Wan-AI publishes a transformer: the patch embedding is the Conv3d it was trained as."""
    config = preset.transformer
    tensors = dict(transformer(preset, seed).state_dict())
    tensors["patch_embedding.weight"] = tensors["patch_embedding.weight"].reshape(
        config.dim, config.in_channels, *config.patch
    )
    return tensors


def official_text() -> Tensors:
    return text_encoder().official()


def save_sharded(folder: Path, tensors: Tensors, stem: str = "diffusion_pytorch_model") -> None:
    """Two shards and their index, as large checkpoints are published."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    listed = {}
    for number, half in enumerate(halves, start=1):
        file = f"{stem}-{number:05d}-of-00002.safetensors"
        save_file({n: tensors[n].contiguous() for n in half}, folder / file)
        listed |= dict.fromkeys(half, file)
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))


def save_tokenizer(folder: Path) -> Path:
    """A sentencepiece of a few words, in the form that transformers reads."""
    folder.mkdir(parents=True)
    text = folder.parent / "text.txt"
    text.write_text(
        "a red kite over the dunes\n一只红色的风筝飞过沙丘\nthe blue sea at night\n" * 20, encoding="utf-8"
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "spiece"), vocab_size=60, hard_vocab_limit=False,
        character_coverage=1.0, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}))
    return folder


def save_shared(folder: Path) -> None:
    """VAE, text encoder and tokenizer as Wan-AI publishes them."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(dict(vae().state_dict()), folder / "Wan2.1_VAE.pth")
    torch.save(official_text(), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    save_tokenizer(folder / "google" / "umt5-xxl")


def save_turbo(folder: Path, quantised: bool = False) -> Path:
    """A folder with TurboDiffusion's file beside the shared parts."""
    save_shared(folder)
    torch.save(turbo(TURBO, quantised), folder / "TurboSmall.pth")
    return folder


def save_base(folder: Path) -> Path:
    """A folder as Wan2.2's image-to-video model is published: two experts in shards."""
    save_shared(folder)
    save_sharded(folder / "high_noise_model", wan(BASE, seed=0))
    save_sharded(folder / "low_noise_model", wan(BASE, seed=1))
    return folder


def import_all(library: Library, preset: Preset, folder: Path) -> None:
    """Everything in `folder` into the library."""
    found = look_into(folder)
    assert found.transformer
    assert found.vae
    assert found.text_encoder
    assert found.tokenizer
    import_transformer(library, preset, found.transformer, found.low)
    import_vae(library, preset, found.vae)
    import_text_encoder(library, preset, found.text_encoder, found.tokenizer)


def install(folder: Path, preset: Preset, save: Callable[[Path], Path]) -> Library:
    """A library below `folder` that holds `preset`, imported from what `save` wrote."""
    library = Library(folder / "models")
    import_all(library, preset, save(folder / "published"))
    return library


def same_state(found: nn.Module, expected: nn.Module) -> bool:
    """Every tensor equal, bit by bit."""
    a, b = found.state_dict(), expected.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
