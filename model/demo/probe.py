"""Reads off uint8 frames what a demo clip shows: colour, shape, motion, background. No network, no training."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from model.demo import world

Frames = NDArray[np.uint8]
_ANGLES = 24


@dataclass(frozen=True)
class Reading:
    """What was seen; `unclear` where no single shape stands out from the background."""

    colour: str
    shape: str
    motion: str
    background: str


def read(frames: Frames) -> Reading:
    """Describe a clip: uint8 [t, h, w, 3]."""
    video = torch.from_numpy(np.ascontiguousarray(frames)).float()
    ground = background_of(video)
    return _read_one(video, stands_out(video, ground), nearest(ground, world.BACKGROUNDS))


def read_objects(frames: Frames) -> list[Reading]:
    """Each object of a clip uint8 [t, h, w, 3] by itself, from left to right; what touches in passing is one."""
    video = torch.from_numpy(np.ascontiguousarray(frames)).float()
    ground = background_of(video)
    masks = stands_out(video, ground)
    background = nearest(ground, world.BACKGROUNDS)
    areas = components(masks.any(0))  # where each object passes; the world's objects keep to their own lanes
    least = 0.2 * max((int(a.sum()) for a in areas), default=0)
    return [_read_one(video, masks & a, background) for a in areas if a.sum() >= max(least, 25)]


def stands_out(video: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
    """Which pixels differ from the background colour [3] as much as things do: bool [t, h, w]."""
    distance = (video - ground).norm(dim=-1)
    return (distance > 45) & (distance > 0.5 * distance.flatten(1).quantile(0.995, dim=1)[:, None, None])


def components(mask: torch.Tensor) -> list[torch.Tensor]:
    """The connected parts of a bool [h, w], by their leftmost column."""
    label = torch.arange(1, mask.numel() + 1).view(mask.shape).float() * mask
    while True:
        spread = torch.nn.functional.max_pool2d(label[None, None], 3, stride=1, padding=1)[0, 0] * mask
        if torch.equal(spread, label):
            break
        label = spread
    parts = [label == value for value in label.unique() if value]
    return sorted(parts, key=lambda part: int(part.any(0).nonzero().min()))


def _read_one(video: torch.Tensor, masks: torch.Tensor, background: str) -> Reading:
    area = masks.flatten(1).sum(1).float()
    if (area < 25).any():
        return Reading("unclear", "unclear", "unclear", background)
    colour = nearest(inner_colour(video, masks), world.COLOURS)
    centres = torch.stack([centre(m) for m in masks])  # [t, 2] as x, y
    motion = read_motion(centres, area, masks, video.shape[1])
    return Reading(colour, read_shape(masks, turning=motion == "spinning"), motion, background)


def background_of(video: torch.Tensor) -> torch.Tensor:
    """Median colour of the frames' border pixels: [3]."""
    border = [video[:, 0], video[:, -1], video[:, :, 0], video[:, :, -1]]
    return torch.cat([b.reshape(-1, 3) for b in border]).median(dim=0).values


def nearest(colour: torch.Tensor, palette: dict[str, tuple[int, int, int]]) -> str:
    return min(palette, key=lambda name: float((colour - torch.tensor(palette[name])).norm()))


def inner_colour(video: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Median colour well inside the shape, where no edge is mixed in."""
    eroded = -torch.nn.functional.max_pool2d(-masks.float()[:, None], 3, stride=1, padding=1)[:, 0] > 0.5
    chosen = eroded if eroded.sum() >= 20 else masks
    return video[chosen].median(dim=0).values


def centre(mask: torch.Tensor) -> torch.Tensor:
    y, x = mask.nonzero(as_tuple=True)
    return torch.stack([x.float().mean(), y.float().mean()])


def read_motion(centres: torch.Tensor, area: torch.Tensor, masks: torch.Tensor, side: int) -> str:
    dx, dy = ((centres[-3:].mean(0) - centres[:3].mean(0)) / side).tolist()
    if max(abs(dx), abs(dy)) > 0.12:
        if abs(dx) > abs(dy):
            return "right" if dx > 0 else "left"
        return "down" if dy > 0 else "up"
    growth = float(area[-3:].mean() / area[:3].mean())
    if growth > 1.4:
        return "growing"
    if growth < 1 / 1.4:
        return "shrinking"
    # Turning in place leaves centre and area but not the outline. The first frame is the softest, so a later
    # one is what the others are held against; a square turned by 45 degrees still overlaps by 0.71.
    held = masks[len(masks) // 4]
    overlap = sorted(float((held & m).sum() / (held | m).sum()) for m in masks)
    return "spinning" if overlap[2] < 0.8 else "still"


def read_shape(masks: torch.Tensor, turning: bool) -> str:
    """The shape whose drawn outline overlaps best, over a few frames; upright unless it turns."""
    score = dict.fromkeys(world.SHAPES, 0.0)
    for mask in masks[:: max(1, len(masks) // 5)]:
        for shape in world.SHAPES:
            score[shape] += best_overlap(mask, shape, turning)
    return max(score, key=lambda s: score[s])


def best_overlap(mask: torch.Tensor, shape: str, turning: bool) -> float:
    """Intersection over union of the mask with the shape drawn at its place, best over radius and angle."""
    rows, columns = (mask.any(dim).nonzero() for dim in (1, 0))
    mask = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    mask = torch.nn.functional.pad(mask, (4, 4, 4, 4))  # the drawn shape may be a little larger
    cx, cy = centre(mask).tolist()
    y, x = torch.meshgrid(torch.arange(mask.shape[0]) - cy, torch.arange(mask.shape[1]) - cx, indexing="ij")
    area, offset = unit_shape(shape)
    radius = math.sqrt(float(mask.sum()) / area) * torch.tensor([0.92, 1.0, 1.08])[:, None, None, None]
    angle = torch.arange(_ANGLES if turning else 1)[None, :, None, None] * (2 * math.pi / _ANGLES)
    px, py = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    drawn = world.signed_distance(shape, px / radius, py / radius + offset) < 0  # [radii, angles, h, w]
    overlap = (drawn & mask).sum((2, 3)) / (drawn | mask).sum((2, 3))
    return float(overlap.max())


@cache
def unit_shape(shape: str) -> tuple[float, float]:
    """Area of the shape of radius 1, and how far its centroid lies below its origin."""
    unit = torch.linspace(-1.3, 1.3, 105)
    y, x = torch.meshgrid(unit, unit, indexing="ij")
    inside = world.signed_distance(shape, x, y) < 0
    return float(inside.float().mean()) * 2.6**2, float(y[inside].mean())
