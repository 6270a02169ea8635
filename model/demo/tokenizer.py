"""The demo model's tokenizer: lower-case English words and single Chinese characters of its small world."""

import re
from dataclasses import dataclass

from model.errors import PromptTooLong

# The order fixes the ids, so words are only ever added at the end.
_WORDS = """
a an the on over of in is that with and it
small little tiny large big
red orange yellow green cyan blue purple pink
circle ball disc square box triangle star ring donut
black white grey gray beige background
moving moves sliding flying going from to left right up down top bottom upwards downwards
rising floating falling dropping spinning spins rotating rotates turning around
growing grows getting bigger larger expanding shrinking shrinks smaller
standing staying stays still not
"""
WORDS = tuple(_WORDS.split())
CHARACTERS = (
    "一个大小的红橙黄绿青蓝紫粉色圆形球正方块三角星五环黑白灰米背景在上下左右向从往移动滑飞升落旋转变放越来缩静止不"
)
PAD, UNKNOWN, START = 0, 1, 2
# Learned later, for several objects at once: their ids come after everything above.
_SEVERAL = [
    "two",
    "three",
    "circles",
    "balls",
    "discs",
    "squares",
    "boxes",
    "triangles",
    "stars",
    "rings",
    "donuts",
]
_IDS = {w: i for i, w in enumerate([*WORDS, *dict.fromkeys(CHARACTERS), *_SEVERAL, *"两二和与同时"], start=3)}
VOCABULARY = tuple(_IDS)  # every word and character that it has seen
# For people: what the model draws, by the plainest word for each thing.
KNOWN: dict[str, tuple[str, ...]] = {
    "shapes": ("circle", "square", "triangle", "star", "ring"),
    "colours": ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"),
    "motions": ("moving right", "left", "up", "down", "spinning", "growing", "shrinking", "still"),
    "backgrounds": ("black", "white", "grey", "beige"),
    "sizes": ("small", "large"),
    "counts": ("a", "two", "three"),
}
VOCABULARY_SIZE = 256  # room to grow without changing the weights' shape

_TOKEN = re.compile(r"[a-z]+|[0-9]|[\u3400-\u9fff]|[^\W\d_]")


@dataclass(frozen=True)
class Tokens:
    """ids without padding, START first; `unknown` lists what the model has never seen."""

    ids: list[int]
    unknown: tuple[str, ...]


def tokenize(prompt: str, max_tokens: int) -> Tokens:
    """Split a prompt. Raises PromptTooLong where it has more than max_tokens - 1 words and characters."""
    words = _TOKEN.findall(prompt.lower())
    if len(words) > max_tokens - 1:
        raise PromptTooLong(
            f"the prompt has {len(words)} words, the demo model reads {max_tokens - 1}",
            "say it with fewer words, such as: a red circle moving right on a white background",
        )
    return Tokens(
        [START, *(_IDS.get(w, UNKNOWN) for w in words)],
        tuple(dict.fromkeys(w for w in words if w not in _IDS)),
    )
