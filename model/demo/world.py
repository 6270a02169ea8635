"""The demo model's world: a coloured shape moving on a plain background, and the captions that describe it."""

import hashlib
import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

SHAPES = ("circle", "square", "triangle", "star", "ring")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 38, 38),
    "orange": (245, 135, 25),
    "yellow": (246, 220, 50),
    "green": (40, 165, 70),
    "cyan": (50, 200, 220),
    "blue": (45, 85, 225),
    "purple": (135, 55, 190),
    "pink": (245, 125, 185),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (14, 14, 16),
    "white": (242, 242, 240),
    "grey": (128, 128, 128),
    "beige": (222, 204, 170),
}
MOTIONS = ("right", "left", "up", "down", "spinning", "growing", "shrinking", "still")
SIZES = ("small", "large")
DIRECTION = {"right": (1.0, 0.0), "left": (-1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
# Turning these shows nothing.
_ROUND = ("circle", "ring")


@dataclass(frozen=True)
class Scene:
    """One clip's content. Lengths are shares of the frame's side; x to the right, y down."""

    shape: str
    colour: str
    background: str
    motion: str
    size: str
    radius: float
    x: float  # where the shape's centre is in the middle of the clip
    y: float
    travel: float

    @property
    def combination(self) -> tuple[str, str, str]:
        return (self.shape, self.colour, self.motion)


def held_out(shape: str, colour: str, motion: str) -> bool:
    """Whether training never sees this combination: a tenth of them, by hash."""
    return hashlib.sha256(f"{shape}/{colour}/{motion}".encode()).digest()[0] % 10 == 0


def random_scene(rng: random.Random, held: bool | None = None) -> Scene:
    """A scene; with `held`, one whose combination is (True) or is not (False) held out from training."""
    while True:
        shape, colour, motion = rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(MOTIONS)
        if motion == "spinning" and shape in _ROUND:
            continue
        if held is None or held_out(shape, colour, motion) == held:
            break
    size = rng.choice(SIZES)
    radius = rng.uniform(0.14, 0.17) if size == "small" else rng.uniform(0.22, 0.27)
    travel = rng.uniform(0.34, 0.46)
    reach = radius * (1.35 if motion in ("growing", "shrinking") else 1.1)
    dx, dy = DIRECTION.get(motion, (0.0, 0.0))
    slack_x = max(0.0, 0.5 - reach - abs(dx) * travel / 2)
    slack_y = max(0.0, 0.5 - reach - abs(dy) * travel / 2)
    return Scene(
        shape=shape, colour=colour, motion=motion, size=size, radius=radius, travel=travel,
        background=rng.choice(list(BACKGROUNDS)),
        x=0.5 + rng.uniform(-slack_x, slack_x), y=0.5 + rng.uniform(-slack_y, slack_y),
    )  # fmt: skip


def draw(scenes: list[Scene], frames: int, side: int, device: torch.device | str = "cpu") -> Tensor:
    """Clips of the scenes: [b, 3, frames, side, side] float32 in [-1, 1]."""
    return draw_with_mask(scenes, frames, side, device)[0]


def draw_with_mask(
    scenes: list[Scene], frames: int, side: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Clips as `draw` gives them, and the shape's coverage of each pixel: [b, 1, frames, side, side]."""

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, device=device, dtype=torch.float32)[:, None]

    u = torch.linspace(0, 1, frames, device=device)[None]  # [1, t]
    dx, dy = (column([DIRECTION.get(s.motion, (0.0, 0.0))[i] for s in scenes]) for i in (0, 1))
    travel = column([s.travel for s in scenes])
    x = column([s.x for s in scenes]) + dx * travel * (u - 0.5)
    y = column([s.y for s in scenes]) + dy * travel * (u - 0.5)
    growth = column([{"growing": 1.0, "shrinking": -1.0}.get(s.motion, 0.0) for s in scenes])
    radius = column([s.radius for s in scenes]) * (1 + growth * 0.7 * (u - 0.5))
    angle = column([math.pi if s.motion == "spinning" else 0.0 for s in scenes]) * u
    grid = (torch.arange(side, device=device) + 0.5) / side
    px = (grid[None, None, None, :] - x[..., None, None]) / radius[..., None, None]  # [b, t, 1, w]
    py = (grid[None, None, :, None] - y[..., None, None]) / radius[..., None, None]  # [b, t, h, 1]
    cos, sin = angle.cos()[..., None, None], angle.sin()[..., None, None]
    px, py = px * cos + py * sin, py * cos - px * sin  # [b, t, h, w]
    index = torch.tensor([SHAPES.index(s.shape) for s in scenes], device=device)
    distance = torch.empty_like(px)
    for i, shape in enumerate(SHAPES):
        chosen = index == i
        if chosen.any():
            distance[chosen] = signed_distance(shape, px[chosen], py[chosen])
    alpha = (0.5 - distance * radius[..., None, None] * side).clamp(0, 1)[:, None]  # one pixel of edge

    def rgb(names: list[str], palette: dict[str, tuple[int, int, int]]) -> Tensor:
        values = torch.tensor([palette[n] for n in names], device=device, dtype=torch.float32)
        return (values / 127.5 - 1)[:, :, None, None, None]

    colour = rgb([s.colour for s in scenes], COLOURS)
    background = rgb([s.background for s in scenes], BACKGROUNDS)
    return background + alpha * (colour - background), alpha


def signed_distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Distance to the outline of a shape of radius about 1, negative inside."""
    r = (x * x + y * y).sqrt()
    if shape == "circle":
        return r - 1
    if shape == "ring":
        return (r - 0.76).abs() - 0.24
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.86
    if shape == "triangle":
        return torch.maximum(y, torch.maximum(x * 0.8660254 - y * 0.5, -x * 0.8660254 - y * 0.5)) - 0.58
    # star: fold onto half a point, then the distance to the edge from the tip to the notch
    sector = math.pi / 5
    theta = torch.atan2(x, -y)
    theta = (theta - (theta / (2 * sector)).round() * 2 * sector).abs()
    fx, fy = r * theta.cos(), r * theta.sin()
    tip, notch = 1.12, 0.47
    ex, ey = notch * math.cos(sector) - tip, notch * math.sin(sector)
    length = math.hypot(ex, ey)
    return ((fx - tip) * -ey + fy * ex) / -length


_EN_MOTION = {
    "right": ("moving right", "moving to the right", "moving left to right", "moving from left to right",
              "moves to the right", "moves right", "sliding right", "flying to the right", "going right"),
    "left": ("moving left", "moving to the left", "moving right to left", "moving from right to left",
             "moves to the left", "moves left", "sliding left", "flying to the left", "going left"),
    "up": ("moving up", "rising", "moves up", "moving upwards", "floating up", "going up",
           "moving from bottom to top", "flying up"),
    "down": ("moving down", "falling", "moves down", "moving downwards", "falling down", "dropping",
             "moving from top to bottom", "going down"),
    "spinning": ("spinning", "rotating", "turning", "spins", "rotates", "spinning around"),
    "growing": ("growing", "getting bigger", "getting larger", "grows", "expanding"),
    "shrinking": ("shrinking", "getting smaller", "shrinks"),
    "still": ("standing still", "staying still", "not moving", "that stays still", "still"),
}  # fmt: skip
_EN_SHAPE = {
    "circle": ("circle", "circle", "ball", "disc"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "ring": ("ring", "ring", "donut"),
}
_EN_SIZE = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
_EN_BACKGROUND = {"grey": ("grey", "gray")}
_ZH_COLOUR = {
    "red": ("红色", "红"), "orange": ("橙色", "橙"), "yellow": ("黄色", "黄"), "green": ("绿色", "绿"),
    "cyan": ("青色",), "blue": ("蓝色", "蓝"), "purple": ("紫色", "紫"), "pink": ("粉色", "粉红色"),
}  # fmt: skip
_ZH_BACKGROUND = {"black": "黑色", "white": "白色", "grey": "灰色", "beige": "米色"}
_ZH_SHAPE = {
    "circle": ("圆形", "圆", "圆球", "球"),
    "square": ("正方形", "方块", "方形"),
    "triangle": ("三角形",),
    "star": ("星星", "五角星", "星形"),
    "ring": ("圆环", "环"),
}
_ZH_SIZE = {"small": ("小", "小的"), "large": ("大", "大的")}
_ZH_MOTION = {
    "right": ("向右移动", "从左向右移动", "从左往右移动", "往右滑动", "向右飞"),
    "left": ("向左移动", "从右向左移动", "从右往左移动", "往左滑动", "向左飞"),
    "up": ("向上移动", "上升", "从下往上移动", "往上飞", "从下向上移动"),
    "down": ("向下移动", "下落", "落下", "从上往下移动", "从上向下移动"),
    "spinning": ("旋转", "转动", "在旋转"),
    "growing": ("变大", "放大", "越来越大"),
    "shrinking": ("变小", "缩小", "越来越小"),
    "still": ("静止", "不动", "静止不动"),
}


def caption(scene: Scene, rng: random.Random, language: str | None = None, full: bool = False) -> str:
    """Words for a scene. With `full`, size and background are always named."""
    language = language or ("en" if rng.random() < 0.5 else "zh")
    return (_english if language == "en" else _chinese)(scene, rng, full)


def _english(s: Scene, rng: random.Random, full: bool) -> str:
    size = rng.choice(_EN_SIZE[s.size]) if full or rng.random() < 0.5 else ""
    thing = " ".join(filter(None, (size, s.colour, rng.choice(_EN_SHAPE[s.shape]))))
    article = "an" if thing[0] in "aeiou" else "a"
    motion = rng.choice(_EN_MOTION[s.motion])
    ground = rng.choice(_EN_BACKGROUND.get(s.background, (s.background,)))
    forms = [
        f"{article} {thing} {motion} on a {ground} background",
        f"on a {ground} background, {article} {thing} {motion}",
        f"{thing} {motion}, {ground} background",
        f"{article} {thing} {motion} over a {ground} background",
    ]
    if not full:
        forms.append(f"{article} {thing} {motion}")
    return rng.choice(forms)


def _chinese(s: Scene, rng: random.Random, full: bool) -> str:
    size = rng.choice(_ZH_SIZE[s.size]) if full or rng.random() < 0.5 else ""
    colour = rng.choice(_ZH_COLOUR[s.colour])
    thing = f"{size}{colour}{rng.choice(('', '的'))}{rng.choice(_ZH_SHAPE[s.shape])}"
    motion = rng.choice(_ZH_MOTION[s.motion])
    ground = _ZH_BACKGROUND[s.background]
    count = rng.choice(("一个", ""))
    forms = [
        f"{count}{thing}在{ground}背景上{motion}",
        f"{ground}背景上,{count}{thing}{motion}",
        f"{ground}的背景,{count}{thing}{motion}",
        f"{count}{thing}{motion},{ground}背景",
    ]
    if not full:
        forms.append(f"{count}{thing}{motion}")
    return rng.choice(forms)
