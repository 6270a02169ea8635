"""The demo's live picture in a terminal: a bar per job and its latent preview in half-block colours."""

import io
import shutil
import sys

from farm.cli import output
from farm.cli.client import Client, Json
from farm.cli.config import colour
from farm.domain.errors import FarmError

SIDE = 24  # columns of a picture; half as many lines, each holds two rows of pixels
BAR = 24


class Screen:
    """Redraws itself on a colour terminal; elsewhere it prints a plain line when something changed."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._live = colour(sys.stdout) and shutil.get_terminal_size().columns >= 3 * (SIDE + 2)
        self._drawn: list[str] = []  # what the next drawing replaces
        self._said: dict[str, str] = {}
        self._pictures: dict[str, tuple[str, list[str]]] = {}

    def draw(self, jobs: list[Json]) -> None:
        if not self._live:
            self._print_changes(jobs)
            return
        lines = [_bar_line(number, job) for number, job in enumerate(jobs, start=1)]
        lines += ["", *self._gallery(jobs)]
        self._replace(lines)

    def say(self, text: str) -> None:
        """A sentence that stays, above what is redrawn."""
        self._replace([])
        output.data(f"\x1b[1m{text}\x1b[0m\n" if self._live else text)

    def close(self) -> None:
        self._drawn = []

    def _replace(self, lines: list[str]) -> None:
        if lines == self._drawn:
            return  # drawn again for nothing, it flickers
        up = f"\x1b[{len(self._drawn)}F\x1b[J" if self._drawn else ""
        sys.stdout.write(up + "".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
        self._drawn = lines

    def _print_changes(self, jobs: list[Json]) -> None:
        for number, job in enumerate(jobs, start=1):
            at: Json = job["progress"] or {}
            # A line for every quarter of the steps, not for each.
            key = f"{job['state']} {job['epoch']} {at.get('stage')} {4 * at.get('k', 0) // (at.get('n') or 1)}"
            if self._said.get(job["id"]) != key:
                prompt = "" if job["id"] in self._said else f": {job['prompt']}"
                self._said[job["id"]] = key
                output.data(f"job {number}  {_words(job)}{prompt}")

    def _gallery(self, jobs: list[Json]) -> list[str]:
        """All pictures side by side, as lines of coloured half blocks."""
        pictures = [self._picture(job) for job in jobs]
        if not any(pictures):
            return []
        blank = [" " * SIDE] * (SIDE // 2)
        return ["  ".join(row) for row in zip(*(picture or blank for picture in pictures), strict=True)]

    def _picture(self, job: Json) -> list[str]:
        """The newest preview, or the poster of the finished video; what was there before if it has none."""
        artifact: Json = job["artifact"] or {}
        progress: Json = job["progress"] or {}
        url: str | None = artifact.get("poster_url") or progress.get("preview_url")
        before = self._pictures.get(job["id"], ("", []))
        if not url or url == before[0]:
            return before[1]
        data = io.BytesIO()
        try:
            self._client.save(url, data)
        except FarmError:  # replaced by a newer one meanwhile
            return before[1]
        drawn = half_blocks(data.getvalue())
        self._pictures[job["id"]] = (url, drawn)
        return drawn


def half_blocks(image: bytes) -> list[str]:
    """A picture as SIDE / 2 lines of 24-bit colour: a half block's ink and its paper are two pixels."""
    from PIL import Image

    small = Image.open(io.BytesIO(image)).convert("RGB").resize((SIDE, SIDE))
    data = small.tobytes()

    def rgb(x: int, y: int) -> str:
        at = 3 * (y * SIDE + x)
        return ";".join(str(value) for value in data[at : at + 3])

    return [
        "".join(f"\x1b[38;2;{rgb(x, y)};48;2;{rgb(x, y + 1)}m▀" for x in range(SIDE)) + "\x1b[0m"
        for y in range(0, SIDE, 2)
    ]


def _bar_line(number: int, job: Json) -> str:
    full = round(BAR * job["percent"] / 100)
    bar = f"\x1b[36m{'━' * full}\x1b[0m\x1b[2m{'─' * (BAR - full)}\x1b[0m"
    room = max(shutil.get_terminal_size().columns - BAR - 40, 16)
    words = _words(job)
    gap = " " * max(30 - len(words), 1)
    return f"{number}  {bar}  {words}{gap}\x1b[2m{output.cut(job['prompt'], room)}\x1b[0m"


def _words(job: Json) -> str:
    attempt = f", attempt {job['epoch']}" if job["epoch"] > 1 else ""
    at = job["progress"]
    if job["state"] != "running" or at is None:
        return f"{job['state']}{attempt}"
    steps = f" {at['k']}/{at['n']}" if at["n"] else ""
    return f"{at['stage']}{steps}{attempt}"
