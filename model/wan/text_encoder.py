"""Wan's text encoder: UMT5-XXL through transformers, from checkpoints in the official key layout."""

import html
import re
from collections.abc import Mapping
from pathlib import Path

import ftfy
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from model.checkpoints.fill import check
from model.errors import CorruptWeights
from model.wan.config import UMT5Shapes

# official name -> transformers name; `blocks.N.` becomes `encoder.block.N.`
_NAMES = {
    "norm1.weight": "layer.0.layer_norm.weight",
    "attn.q.weight": "layer.0.SelfAttention.q.weight",
    "attn.k.weight": "layer.0.SelfAttention.k.weight",
    "attn.v.weight": "layer.0.SelfAttention.v.weight",
    "attn.o.weight": "layer.0.SelfAttention.o.weight",
    "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
    "norm2.weight": "layer.1.layer_norm.weight",
    "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
    "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
    "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
}
_TOP = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
_TRANSFORMERS = {theirs: ours for ours, theirs in _NAMES.items()}
_TRANSFORMERS_TOP = {theirs: ours for ours, theirs in _TOP.items()}
_BLOCK = re.compile(r"encoder\.block\.(\d+)\.(.+)")


def official_name(name: str) -> str:
    """The official checkpoint's name of a transformers parameter."""
    if match := _BLOCK.fullmatch(name):
        return f"blocks.{match[1]}.{_TRANSFORMERS[match[2]]}"
    return _TRANSFORMERS_TOP[name]


def clean(prompt: str) -> str:
    """The prompt as the models were trained on it: mended Unicode, HTML unescaped twice, single spaces."""
    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", text).strip()


class UMT5TextEncoder(nn.Module):
    """Token ids in, text rows for cross-attention out; rows past the prompt are zero."""

    def __init__(self, shapes: UMT5Shapes) -> None:
        super().__init__()
        self.shapes = shapes
        self.encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=shapes.vocabulary,
                d_model=shapes.dim,
                d_kv=shapes.attention_dim // shapes.heads,
                d_ff=shapes.ffn_dim,
                num_layers=shapes.layers,
                num_heads=shapes.heads,
                relative_attention_num_buckets=shapes.buckets,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
            )
        )

    def load_official(self, tensors: Mapping[str, Tensor], source: Path, dtype: torch.dtype) -> None:
        """Fill from tensors in the official layout. Raises CorruptWeights naming tensor, expected and found."""
        # transformers ties encoder.embed_tokens to `shared`: one tensor under two names.
        tied = "encoder.embed_tokens.weight"
        names = {name: official_name(name) for name in self.encoder.state_dict() if name != tied}
        expected = {names[name]: value for name, value in self.encoder.state_dict().items() if name in names}
        check(tensors, expected, source)
        state = {name: tensors[official].to(dtype) for name, official in names.items()}
        self.encoder.load_state_dict({**state, tied: state["shared.weight"]}, assign=True)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: [b, n] int64, mask 1 on real tokens. Returns [b, n, dim], zero where the mask is 0."""
        rows = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return rows * mask[..., None].to(rows.dtype)


class WanTokenizer:
    """google/umt5-xxl from a folder on this machine; nothing is fetched."""

    def __init__(self, folder: Path, text_len: int = 512) -> None:
        if not (folder / "tokenizer_config.json").is_file():
            raise CorruptWeights(f"{folder}: no tokenizer here", "install the tokenizer of google/umt5-xxl")
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.text_len = text_len

    def __call__(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """ids and mask [b, text_len] of cleaned prompts, cut at text_len tokens as in training."""
        found = self.tokenizer(
            [clean(p) for p in prompts],
            padding="max_length",
            truncation=True,
            max_length=self.text_len,
            return_tensors="pt",
        )
        return found.input_ids, found.attention_mask
