"""The demo model's world: coloured shapes moving on a plain background (captions: model.demo.captions)."""

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    count: int = 1  # of the same shape, side by side across the motion
    second: "Scene | None" = None  # another object in the other half of the frame; its background is this one's

    @property
    def combination(self) -> tuple[str, str, str]:
        return (self.shape, self.colour, self.motion)


def held_out(shape: str, colour: str, motion: str) -> bool:
    """Whether training never sees this combination: a tenth of them, by hash."""
    return hashlib.sha256(f"{shape}/{colour}/{motion}".encode()).digest()[0] % 10 == 0


def random_scene(rng: random.Random, held: bool | None = None) -> Scene:
    """A scene of one object; with `held`, of a combination held out from training (True) or not (False)."""
    shape, colour, motion = _combination(rng, held, MOTIONS)
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


def random_group(rng: random.Random, held: bool | None = None) -> Scene:
    """Two or three of the same."""
    scene = random_scene(rng, held)
    count = rng.choice((2, 3))
    radius = rng.uniform(0.09, 0.11)
    dx, dy = DIRECTION.get(scene.motion, (0.0, 0.0))
    loose = rng.uniform(-0.1, 0.1)
    return replace(
        scene, count=count, size="small", radius=radius,
        x=0.5 if not dy else 0.5 + loose * 0.3, y=0.5 + loose if not dx else 0.5,
    )  # fmt: skip


def random_pair(rng: random.Random, held: bool | None = None) -> Scene:
    """Two different objects, each in its half of the frame."""
    stacked = rng.random() < 0.5
    motions = tuple(m for m in MOTIONS if m not in (("up", "down") if stacked else ("left", "right")))
    first, second = (_half(rng, held, motions, stacked, at) for at in (0.27, 0.73))
    while (second.shape, second.colour) == (first.shape, first.colour):
        second = _half(rng, held, motions, stacked, 0.73)
    return replace(first, second=replace(second, background=first.background))


def any_scene(rng: random.Random, held: bool | None = None) -> Scene:
    """As training sees them: mostly one object."""
    kind = rng.random()
    if kind < 0.8:
        return random_scene(rng, held)
    return random_group(rng, held) if kind < 0.9 else random_pair(rng, held)


def _half(rng: random.Random, held: bool | None, motions: Sequence[str], stacked: bool, at: float) -> Scene:
    shape, colour, motion = _combination(rng, held, motions)
    travel, along = rng.uniform(0.34, 0.46), rng.uniform(-0.12, 0.12)
    return Scene(
        shape=shape, colour=colour, motion=motion, size="small", radius=rng.uniform(0.12, 0.15), travel=travel,
        background=rng.choice(list(BACKGROUNDS)),
        x=0.5 + along if stacked else at, y=at if stacked else 0.5 + along,
    )  # fmt: skip


def _combination(rng: random.Random, held: bool | None, motions: Sequence[str]) -> tuple[str, str, str]:
    while True:
        shape, colour, motion = rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(motions)
        if motion == "spinning" and shape in _ROUND:
            continue
        if held is None or held_out(shape, colour, motion) == held:
            return shape, colour, motion


def objects(scene: Scene) -> list[Scene]:
    """The scene's objects as scenes of one object each, in the order in which they are drawn."""
    if scene.second is not None:
        return [*objects(replace(scene, second=None)), scene.second]
    places = {1: (0.0,), 2: (-0.22, 0.22), 3: (-0.3, 0.0, 0.3)}[scene.count]
    across = scene.motion in ("left", "right")  # side by side across the way they go
    return [
        replace(scene, count=1, x=scene.x + (0.0 if across else at), y=scene.y + (at if across else 0.0))
        for at in places
    ]


def draw(scenes: list[Scene], frames: int, side: int, device: torch.device | str = "cpu") -> Tensor:
    """Clips of the scenes: [b, 3, frames, side, side] float32 in [-1, 1]."""
    return draw_with_mask(scenes, frames, side, device)[0]


def draw_with_mask(
    scenes: list[Scene], frames: int, side: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Clips as `draw` gives them, and the objects' coverage of each pixel: [b, 1, frames, side, side]."""
    video = _rgb([s.background for s in scenes], BACKGROUNDS, device).expand(-1, -1, frames, side, side).clone()
    mask = torch.zeros(len(scenes), 1, frames, side, side, device=device)
    layers = [objects(s) for s in scenes]
    for depth in range(max(map(len, layers))):
        rows = [i for i, layer in enumerate(layers) if len(layer) > depth]
        alpha = _coverage([layers[i][depth] for i in rows], frames, side, device)
        colour = _rgb([layers[i][depth].colour for i in rows], COLOURS, device)
        chosen = torch.tensor(rows, device=device)
        video[chosen] = torch.lerp(video[chosen], colour.expand(-1, -1, frames, side, side), alpha)
        mask[chosen] = torch.maximum(mask[chosen], alpha)
    return video, mask


def _rgb(names: list[str], palette: dict[str, tuple[int, int, int]], device: torch.device | str) -> Tensor:
    values = torch.tensor([palette[n] for n in names], device=device, dtype=torch.float32)
    return (values / 127.5 - 1)[:, :, None, None, None]


def _coverage(scenes: list[Scene], frames: int, side: int, device: torch.device | str) -> Tensor:
    """How much of each pixel the one object of each scene covers: [b, 1, frames, side, side]."""

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
    return (0.5 - distance * radius[..., None, None] * side).clamp(0, 1)[:, None]  # one pixel of edge


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
