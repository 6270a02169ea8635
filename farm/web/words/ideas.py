"""Prompts to begin with, of the demo model's small world."""

import itertools
import random

_COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
_SHAPES = ("circle", "square", "triangle", "star", "ring")
_MOTIONS = ("moving to the left", "moving to the right", "moving up", "moving down", "growing", "shrinking")
_BACKGROUNDS = ("black", "white", "grey", "beige")

_COLOURS_ZH = ("红色", "橙色", "黄色", "绿色", "青色", "蓝色", "紫色", "粉色")
_SHAPES_ZH = ("圆形", "正方形", "三角形", "星形", "圆环")
_MOTIONS_ZH = ("向左移动", "向右移动", "向上移动", "向下移动", "变大", "变小")
_BACKGROUNDS_ZH = ("黑色", "白色", "灰色", "米色")


def ideas(lang: str, count: int = 24) -> list[str]:
    """Prompts that the model understands, a different handful each time; later ones in the other language too."""
    english, chinese = _english(), _chinese()
    first, second = (chinese, english) if lang == "zh" else (english, chinese)
    drawn = random.sample(first, count - 3)
    return [*drawn[:6], *random.sample(second, 1), *drawn[6:], *random.sample(second, 2)]


def _english() -> list[str]:
    worlds = itertools.product(("small", "large"), _COLOURS, _SHAPES, _MOTIONS, _BACKGROUNDS)
    return [f"a {s} {c} {shape} {m} on a {b} background" for s, c, shape, m, b in worlds]


def _chinese() -> list[str]:
    worlds = itertools.product(("小", "大"), _COLOURS_ZH, _SHAPES_ZH, _MOTIONS_ZH, _BACKGROUNDS_ZH)
    return [f"一个{s}的{c}{shape}在{b}背景上{m}" for s, c, shape, m, b in worlds]
