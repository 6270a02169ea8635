"""What can be measured here: each benchmark beside what it measures, what it needs, and why it is left out."""

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from farm import gpus


@dataclass(frozen=True)
class Bench:
    """`python -m module arguments`. `needs`: things of this machine; `json`: it can speak for machines."""

    name: str
    group: str
    module: str
    says: str
    takes: str
    needs: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    json: bool = False

    def command(self, as_json: bool) -> list[str]:
        return ["-m", self.module, *self.arguments, *(["--json"] if as_json and self.json else [])]


BENCHES = (
    Bench(
        "kernels", "kernels", "kernels.bench", "each kernel beside its floor and other configurations",
        "2 min", ("gpu", "torch", "triton"), json=True,
    ),
    Bench(
        "model-load", "model", "model.bench", "seconds and memory to load and render each model, random weights",
        "10 min, 65 GB of disk", ("gpu", "torch"), ("load", "--render"), json=True,
    ),
    Bench(
        "model-step", "model", "model.bench", "one denoising step of each real shape beside the card's floors",
        "5 min", ("gpu", "torch", "triton"), ("dit",), json=True,
    ),
    Bench(
        "model-demo", "model", "model.demo.evaluate", "how many held-out prompts the demo model follows",
        "3 min", ("torch",), ("--quick",), json=True,
    ),
    Bench(
        "recovery", "farm", "farm.bench.recovery", "how soon the farm is itself again after each fault", "4 min",
        ("ray",),
    ),
    Bench("watchers", "farm", "farm.bench.watchers", "a hundred watchers while jobs change", "2 min"),
    Bench(
        "page", "farm", "farm.bench.page", "how soon the page is painted over 10,000 jobs", "1 min",
        ("chromium", "playwright"),
    ),
)  # fmt: skip
GROUPS = tuple(dict.fromkeys(one.group for one in BENCHES))

# What is there, and how to get it.
_HELP = {
    "gpu": "no GPU is visible here",
    "chromium": "Chromium is not installed: apt-get install chromium",
    "torch": "torch is not installed: pip install 'turbofarm[gpu]'",
    "triton": "triton is not installed: pip install 'turbofarm[gpu]'",
    "ray": "ray is not installed: pip install 'turbofarm[server]'",
    "playwright": "playwright is not installed: pip install playwright",
}


def missing(bench: Bench) -> list[str]:
    """Why it cannot run here, one sentence each; [] if it can."""
    return [_HELP[need] for need in bench.needs if not _THERE.get(need, lambda need=need: _installed(need))()]


def chosen(names: Sequence[str]) -> list[Bench]:
    """Of groups and single names, in the menu's order; all where none is named."""
    return [one for one in BENCHES if not names or one.name in names or one.group in names]


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _browser() -> bool:
    return any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))


_THERE: dict[str, Callable[[], bool]] = {"gpu": lambda: bool(gpus.visible()), "chromium": _browser}
