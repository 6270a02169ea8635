"""Words for a scene of the demo model's world, English and Chinese."""

import random

from model.demo.world import Scene

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


_EN_NUMBER = {1: "", 2: "two", 3: "three"}
_ZH_NUMBER = {1: "一个", 2: "两个", 3: "三个"}
_EN_PLURAL = {
    "circle": ("circles", "circles", "balls", "discs"),
    "square": ("squares", "squares", "boxes"),
    "triangle": ("triangles",),
    "star": ("stars",),
    "ring": ("rings", "rings", "donuts"),
}


def caption(scene: Scene, rng: random.Random, language: str | None = None, full: bool = False) -> str:
    """Words for a scene. With `full`, size and background are always named."""
    language = language or ("en" if rng.random() < 0.5 else "zh")
    return (_english if language == "en" else _chinese)(scene, rng, full)


def _english(s: Scene, rng: random.Random, full: bool) -> str:
    ground = rng.choice(_EN_BACKGROUND.get(s.background, (s.background,)))
    if s.count > 1 or s.second is not None:
        what = _en_many(s, rng) if s.second is None else f"{_en_one(s, rng)} and {_en_one(s.second, rng)}"
        return rng.choice((f"{what} on a {ground} background", f"{what}, {ground} background"))
    thing, motion = _en_thing(s, rng, full), rng.choice(_EN_MOTION[s.motion])
    article = _article(thing)
    forms = [
        f"{article} {thing} {motion} on a {ground} background",
        f"on a {ground} background, {article} {thing} {motion}",
        f"{thing} {motion}, {ground} background",
        f"{article} {thing} {motion} over a {ground} background",
    ]
    if not full:
        forms.append(f"{article} {thing} {motion}")
    return rng.choice(forms)


def _en_thing(s: Scene, rng: random.Random, sized: bool) -> str:
    size = rng.choice(_EN_SIZE[s.size]) if sized or rng.random() < 0.5 else ""
    return " ".join(filter(None, (size, s.colour, rng.choice(_EN_SHAPE[s.shape]))))


def _en_one(s: Scene, rng: random.Random) -> str:
    thing = f"{s.colour} {rng.choice(_EN_SHAPE[s.shape])}"
    return f"{_article(thing)} {thing} {_participle(s, rng)}"


def _en_many(s: Scene, rng: random.Random) -> str:
    return f"{_EN_NUMBER[s.count]} {s.colour} {rng.choice(_EN_PLURAL[s.shape])} {_participle(s, rng)}"


def _participle(s: Scene, rng: random.Random) -> str:
    return rng.choice([m for m in _EN_MOTION[s.motion] if m.split()[0].endswith("ing")])


def _article(thing: str) -> str:
    return "an" if thing[0] in "aeiou" else "a"


def _chinese(s: Scene, rng: random.Random, full: bool) -> str:
    ground = _ZH_BACKGROUND[s.background]
    if s.count > 1 or s.second is not None:
        what = _zh_one(s, rng)
        if s.second is not None:
            what += rng.choice(("和", "与", ",")) + _zh_one(s.second, rng)
        return rng.choice((f"{ground}背景上,{what}", f"{what},{ground}背景"))
    size = rng.choice(_ZH_SIZE[s.size]) if full or rng.random() < 0.5 else ""
    thing = f"{size}{_zh_thing(s, rng)}"
    motion = rng.choice(_ZH_MOTION[s.motion])
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


def _zh_thing(s: Scene, rng: random.Random) -> str:
    return f"{rng.choice(_ZH_COLOUR[s.colour])}{rng.choice(('', '的'))}{rng.choice(_ZH_SHAPE[s.shape])}"


def _zh_one(s: Scene, rng: random.Random) -> str:
    return f"{_ZH_NUMBER[s.count]}{_zh_thing(s, rng)}{rng.choice(_ZH_MOTION[s.motion])}"
