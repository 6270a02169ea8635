"""The demo model's text encoder: learned embeddings and one transformer layer over its few words."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.demo.tokenizer import PAD, VOCABULARY_SIZE, tokenize

HEADS = 4


class DemoTextEncoder(nn.Module):
    """Token ids in, text rows for cross-attention out; rows past the prompt are zero."""

    def __init__(self, dim: int, text_len: int) -> None:
        super().__init__()
        self.text_len = text_len
        self.token_embedding = nn.Embedding(VOCABULARY_SIZE, dim)
        self.position_embedding = nn.Parameter(torch.randn(text_len, dim) * 0.02)
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.o = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(approximate="tanh"), nn.Linear(2 * dim, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [b, text_len] int64, 0 past the prompt. Returns [b, text_len, dim]."""
        real = ids != PAD
        x = self.token_embedding(ids) + self.position_embedding
        q, k, v = (t.unflatten(2, (HEADS, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        mask = (real | ~real.any(1, keepdim=True))[:, None, None, :]  # an empty row attends anywhere: no NaN
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))
        x = x + self.ffn(self.norm2(x))
        return self.norm(x) * real[..., None]

    def ids(self, prompts: list[str], device: torch.device | str = "cpu") -> Tensor:
        """Padded ids [b, text_len]. Raises PromptTooLong."""
        rows = [tokenize(p, self.text_len).ids for p in prompts]
        out = torch.full((len(rows), self.text_len), PAD, dtype=torch.int64)
        for i, row in enumerate(rows):
            out[i, : len(row)] = torch.tensor(row)
        return out.to(device)

    def encode(self, prompts: list[str]) -> Tensor:
        """Text rows [b, text_len, dim] of prompts, on the encoder's device."""
        return self(self.ids(prompts, self.position_embedding.device))

    def visit(self) -> int:
        return 0
