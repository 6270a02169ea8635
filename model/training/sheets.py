"""Sample sheets: clips as rows of frames in one PNG, to look at."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def save_sheet(path: Path, video: Tensor, columns: int = 5, across: int = 1) -> None:
    """Write clips [b, 3, t, h, w] in [-1, 1] as rows of `columns` frames, `across` clips side by side."""
    index = torch.linspace(0, video.shape[2] - 1, columns).round().long()
    frames = ((video.float().cpu()[:, :, index].clamp(-1, 1) + 1) * 127.5).round().byte()
    rows = frames.permute(0, 3, 2, 4, 1).flatten(2, 3)  # [b, h, columns * w, 3]
    across = min(across, len(rows))
    rows = rows[: len(rows) // across * across].unflatten(0, (-1, across))
    picture = rows.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.contiguous().numpy()).save(path)
