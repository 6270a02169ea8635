"""Wan's text encoder: UMT5-XXL through transformers, its tokenizer, and prompts cleaned as in training."""

import copy
import html
import re
from pathlib import Path

import ftfy
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from model.checkpoints.entries import Checkpoint, Device
from model.checkpoints.fill import tensors
from model.checkpoints.names import UMT5_TIED, umt5_name
from model.errors import CorruptWeights
from model.wan.config import UMT5Shapes
from model.wan.text_cache import TextCache


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

    def official(self) -> dict[str, Tensor]:
        """This module's tensors under the names of the official checkpoint."""
        # transformers ties encoder.embed_tokens to `shared`: one tensor under two names.
        return {umt5_name(k): v for k, v in self.encoder.state_dict().items() if k != UMT5_TIED}

    def fill(self, checkpoint: Checkpoint, dtype: torch.dtype, device: Device = "cpu") -> None:
        """Take the tensors of the official layout. Raises CorruptWeights naming tensor, expected and found."""
        found = tensors(checkpoint, self.official(), dtype, device)
        state = {k: found[umt5_name(k)] for k in self.encoder.state_dict() if k != UMT5_TIED}
        self.encoder.load_state_dict({**state, UMT5_TIED: state["shared.weight"]}, assign=True)

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


class WanText:
    """Prompts in, text rows out: tokenizer, encoder and the embeddings kept from earlier prompts."""

    def __init__(
        self,
        tokenizer: WanTokenizer,
        encoder: UMT5TextEncoder,
        device: Device,
        cache: TextCache | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.device = torch.device(device)
        self.cache = cache

    def encode(self, prompts: list[str]) -> Tensor:
        """[b, text_len, dim] on `device`; rows past the prompt are zero."""
        rows = [self._rows(clean(prompt)) for prompt in prompts]
        out = rows[0].new_zeros(len(rows), self.tokenizer.text_len, rows[0].shape[1])
        for i, real in enumerate(rows):
            out[i, : len(real)] = real
        return out

    def visit(self) -> int:
        """Bytes that come to the card while a new prompt is encoded: all, where it has no room for them else."""
        away = self._weight.device.type != self.device.type
        return sum(weight.nbytes for weight in self.encoder.parameters()) if away else 0

    @property
    def _weight(self) -> Tensor:
        return self.encoder.encoder.shared.weight

    def _rows(self, text: str) -> Tensor:
        """The real rows [n, dim] of one cleaned prompt."""
        weight = self._weight
        kept = None if self.cache is None else self.cache.get(text)
        if kept is not None:
            return kept.to(self.device, weight.dtype)
        ids, mask = self.tokenizer([text])
        ids = ids[:, : int(mask.sum())].to(self.device)  # padding changes no real row
        # Where the card has no room for it beside the model, a copy comes for this prompt and goes again.
        encoder = self.encoder if not self.visit() else copy.deepcopy(self.encoder).to(self.device)
        rows = encoder(ids, torch.ones_like(ids))[0]
        if self.cache is not None:
            self.cache.put(text, rows)
        return rows
