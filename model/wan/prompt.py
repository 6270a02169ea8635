"""What the transformer computes of a prompt once: which of its rows differ, their keys and values in each block."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

ROOM = 64  # rows at a time, and two of these at least: what the kernels read at once, the same for most prompts
T = TypeVar("T")


@dataclass(frozen=True)
class Keys:
    """One block's k, v [b, n, heads, head_dim] of the prompt; bias [b, n] float32 is added to a key's scores.

    reach [b] float32: the largest magnitude of v, and so of what attends to it. None: not known.
    """

    k: Tensor
    v: Tensor
    bias: Tensor | None = None
    reach: Tensor | None = None


@dataclass(frozen=True)
class Prompt:
    """Embedded rows [b, n, dim], of which one stands for all padding by its bias; the blocks' keys so far."""

    rows: Tensor
    bias: Tensor
    keys: dict[nn.Module, Keys] = field(default_factory=dict[nn.Module, Keys])


def tensors_of(keys: Sequence[Keys]) -> list[Tensor]:
    """What the blocks' keys of one prompt consist of: its bias, then k, v and reach of each."""
    tensors = [keys[0].bias, *(tensor for own in keys for tensor in (own.k, own.v, own.reach))]
    return [tensor for tensor in tensors if tensor is not None]


def keys_of(tensors: Sequence[Tensor]) -> list[Keys]:
    """`tensors_of` undone."""
    bias, *parts = tensors
    return [Keys(k, v, bias, reach) for k, v, reach in zip(parts[::3], parts[1::3], parts[2::3], strict=True)]


def distinct_rows(text: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of text [b, text_len, text_dim] up to the longest prompt and one more, with each row's bias [b, n].

    n is 128, or the next multiple of 64, so that it is the same for most prompts.

    Rows past a prompt are zeros and nothing masks them, so their keys and values are all the same: one with
    log(count) added to its score weighs in the softmax what they all do, exactly. Waits for the device.
    """
    b, total, _ = text.shape
    used = (text != 0).any(2)
    count = (used * torch.arange(1, total + 1, device=text.device)).amax(1)  # rows of each prompt
    longest = int(count.max())
    n = min(max(2, longest // ROOM + 1) * ROOM, total)
    place = torch.arange(n, device=text.device).expand(b, n)
    padding = (total - count).clamp_min(1).log().float()[:, None]
    bias = torch.where(place < count[:, None], 0.0, torch.where(place == count[:, None], padding, -torch.inf))
    return text[:, :n], bias


class LastUsed(Generic[T]):
    """The values of the last few tensors asked for. A prompt is one tensor for all steps of a render.

    Found again by where the tensor lies (it is kept alive, so no other can lie there) and by the versions of it and
    of the weights: what is written in place counts as another. Inference tensors have no version, and must not be
    written to.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.entries: dict[tuple[object, ...], tuple[Tensor, T]] = {}

    def get(self, tensor: Tensor, weights: list[Tensor], make: Callable[[], T]) -> T:
        key = (*_identity(tensor), *(part for weight in weights for part in _identity(weight)))
        _, value = self.entries.pop(key, None) or (tensor, make())
        self.entries[key] = (tensor, value)
        while len(self.entries) > self.size:
            del self.entries[next(iter(self.entries))]
        return value


def _identity(tensor: Tensor) -> tuple[object, ...]:
    version = 0 if tensor.is_inference() else tensor._version
    return (tensor.data_ptr(), version, tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
