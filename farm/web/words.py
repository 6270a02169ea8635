"""The words of the page: what each state and stage is called, and prompts to begin with."""

import itertools
import random

from farm.domain.states import JobState

STATES: dict[JobState, str] = {
    JobState.RUNNING: "Rendering",
    JobState.LEASED: "Starting",
    JobState.QUEUED: "Waiting",
    JobState.SCHEDULED: "Scheduled",
    JobState.HELD: "On hold",
    JobState.SUCCEEDED: "Done",
    JobState.FAILED: "Failed",
    JobState.CANCELLED: "Cancelled",
}

STAGES = {
    "loading": "loading the model",
    "text": "reading the prompt",
    "image": "reading the image",
    "denoise": "denoising",
    "decode": "decoding frames",
    "encode": "encoding the video",
    "upload": "saving",
}

# A chip of the page and the states behind it.
CHIPS: dict[str, tuple[str, tuple[JobState, ...]]] = {
    "running": ("Rendering", (JobState.RUNNING, JobState.LEASED)),
    "queued": ("Waiting", (JobState.QUEUED, JobState.SCHEDULED)),
    "held": ("On hold", (JobState.HELD,)),
    "succeeded": ("Done", (JobState.SUCCEEDED,)),
    "failed": ("Failed", (JobState.FAILED,)),
    "cancelled": ("Cancelled", (JobState.CANCELLED,)),
}

# The demo model knows a small world: say what is in it.
_COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
_SHAPES = ("circle", "square", "triangle", "star", "ring")
_MOTIONS = ("moving to the left", "moving to the right", "moving up", "moving down", "growing", "shrinking")
_BACKGROUNDS = ("black", "white", "grey", "beige")
_CHINESE = (
    "一个大的红色圆形在黑色背景上向右移动",
    "一个蓝色的星形在白色背景上变大",
    "黄色三角形在灰色背景上向上移动",
)


def ideas(count: int = 24) -> list[str]:
    """Prompts the demo model understands, a different handful each time."""
    worlds = list(itertools.product(("small", "large"), _COLOURS, _SHAPES, _MOTIONS, _BACKGROUNDS))
    drawn = random.sample(worlds, count - len(_CHINESE))
    english = [f"a {s} {c} {shape} {m} on a {b} background" for s, c, shape, m, b in drawn]
    return [*english[:2], _CHINESE[0], *english[2:], *_CHINESE[1:]]
