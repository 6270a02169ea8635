"""One name for each tensor: the official Wan names, which our modules carry, from every layout they come in.

TurboDiffusion nests proj_l deeper; diffusers and transformers rename everything. Sources: the public layouts
of Wan2.1 / 2.2 (Wan-Video), TurboDiffusion, diffusers 0.42 and transformers 5 (all Apache-2.0).
Layout-tested, not yet run on released weights.
"""

import re
from collections.abc import Callable

from model.checkpoints.entries import Checkpoint
from model.wan.config import TransformerConfig, VAEConfig

_TURBO_PROJ = "self_attn.attn_op.local_attn.proj_l"
# Each rule is tried in order; the ends are anchored where a short name could match inside a longer one.
_DIFFUSERS_TRANSFORMER = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"^proj_out\.", "head.head."),
    (r"\.scale_shift_table$", ".modulation"),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
    (r"\.norm2\.", ".norm3."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"_attn\.to_([qkv])\.", r"_attn.\1."),
    (r"_attn\.to_out\.0\.", "_attn.o."),
)
_DIFFUSERS_RESIDUAL = (
    (r"\.norm1\.gamma$", ".residual.0.gamma"),
    (r"\.conv1\.", ".residual.2."),
    (r"\.norm2\.gamma$", ".residual.3.gamma"),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)
_DIFFUSERS_VAE = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"^(en|de)coder\.conv_in\.", r"\1coder.conv1."),
    (r"^(en|de)coder\.norm_out\.", r"\1coder.head.0."),
    (r"^(en|de)coder\.conv_out\.", r"\1coder.head.2."),
    (r"^(en|de)coder\.mid_block\.resnets\.0\.", r"\1coder.middle.0."),
    (r"^(en|de)coder\.mid_block\.attentions\.0\.", r"\1coder.middle.1."),
    (r"^(en|de)coder\.mid_block\.resnets\.1\.", r"\1coder.middle.2."),
    (r"^encoder\.down_blocks\.", "encoder.downsamples."),
)
_UP = re.compile(r"^decoder\.up_blocks\.(\d+)\.(resnets\.(\d+)|upsamplers\.0)\.")
_UMT5 = {
    "layer.0.layer_norm.weight": "norm1.weight",
    "layer.0.SelfAttention.q.weight": "attn.q.weight",
    "layer.0.SelfAttention.k.weight": "attn.k.weight",
    "layer.0.SelfAttention.v.weight": "attn.v.weight",
    "layer.0.SelfAttention.o.weight": "attn.o.weight",
    "layer.0.SelfAttention.relative_attention_bias.weight": "pos_embedding.embedding.weight",
    "layer.1.layer_norm.weight": "norm2.weight",
    "layer.1.DenseReluDense.wi_0.weight": "ffn.gate.0.weight",
    "layer.1.DenseReluDense.wi_1.weight": "ffn.fc1.weight",
    "layer.1.DenseReluDense.wo.weight": "ffn.fc2.weight",
}
_UMT5_TOP = {"shared.weight": "token_embedding.weight", "encoder.final_layer_norm.weight": "norm.weight"}
_UMT5_BLOCK = re.compile(r"encoder\.block\.(\d+)\.(.+)")
UMT5_TIED = "encoder.embed_tokens.weight"  # transformers' second name of shared.weight


def transformer(found: Checkpoint, config: TransformerConfig) -> tuple[str, Checkpoint]:
    """The layout's name, and the tensors under ours; patch_embedding may come as the Conv3d it was trained as."""
    if "condition_embedder.time_proj.weight" in found:
        layout, name = "diffusers", _by_rules(_DIFFUSERS_TRANSFORMER)
    elif any(key.endswith(".int8_weight") for key in found):
        layout, name = "turbodiffusion-int8", _turbo
    elif any(_TURBO_PROJ in key for key in found):
        layout, name = "turbodiffusion", _turbo
    else:
        layout, name = "wan", _same
    conv = (config.dim, config.in_channels, *config.patch)
    patch = "patch_embedding.weight"
    named = found.of((name(key), entry) for key, entry in found.items())
    if patch in named and named[patch].shape == conv:
        flat = named[patch].reshaped(config.dim, named[patch].shape[1] * config.patch[1] * config.patch[2])
        named = named.of((k, flat if k == patch else e) for k, e in named.items())
    return layout, named


def vae(found: Checkpoint, config: VAEConfig) -> tuple[str, Checkpoint]:
    """The layout's name, and the tensors under ours."""
    if "quant_conv.weight" not in found:
        return "wan", found
    rules = _by_rules(_DIFFUSERS_VAE)

    def name(key: str) -> str:
        if match := _UP.match(key):
            # Official files number residual blocks and upsamplers of all levels in one row.
            index = int(match[1]) * (config.res_blocks + 2) + int(match[3] or config.res_blocks + 1)
            key = f"decoder.upsamples.{index}.{key[match.end() :]}"
        key = rules(key)
        inner = re.match(r"(en|de)coder\.(middle|downsamples|upsamples)\.\d+\.", key)
        return _by_rules(_DIFFUSERS_RESIDUAL)(key) if inner else key

    return "diffusers", found.of((name(key), entry) for key, entry in found.items())


def umt5(found: Checkpoint) -> tuple[str, Checkpoint]:
    """The layout's name, and the tensors under the official names."""
    if "shared.weight" not in found:
        return "wan", found
    return "transformers", found.of((umt5_name(k), e) for k, e in found.items() if k != UMT5_TIED)


def umt5_name(key: str) -> str:
    """The official checkpoint's name of a transformers parameter; an unknown one stays as it is."""
    if match := _UMT5_BLOCK.fullmatch(key):
        return f"blocks.{match[1]}.{_UMT5.get(match[2], match[2])}"
    return _UMT5_TOP.get(key, key)


def _same(key: str) -> str:
    return key


def _turbo(key: str) -> str:
    return key.replace(_TURBO_PROJ, "self_attn.proj_l")


def _by_rules(rules: tuple[tuple[str, str], ...]) -> Callable[[str], str]:
    def name(key: str) -> str:
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        return key

    return name
