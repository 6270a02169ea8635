"""How far a long copy is: a line that is redrawn on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

from farm.cli import output

_REDRAW = 0.2  # seconds
_PLAIN = 15.0  # seconds between two lines of one file where nobody watches live
_MEMORY = 5.0  # seconds over which the speed is taken


class Transfer:
    """`say(what, done, total)` as often as wanted; it decides what is worth a line."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._what = ""
        self._said_at = -1e9
        self._marks: list[tuple[float, int]] = []

    def say(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._said_at, self._marks = what, -1e9, []
        if not self._marks or now - self._marks[-1][0] > _REDRAW:
            self._marks = [mark for mark in self._marks if now - mark[0] < _MEMORY] + [(now, done)]
        over = done >= total
        if now - self._said_at < (_REDRAW if self._live else _PLAIN) and not over:
            return
        self._said_at = now
        line = f"{what}  {size(done)} of {size(total)}{self._speed(now, done, total)}"
        if self._live and not over:
            output.note_inline(line)
        else:
            self.end()
            output.note(f"{what}  {size(total)}" if over else line)

    def end(self) -> None:
        if self._live:
            output.note_inline("")

    def _speed(self, now: float, done: int, total: int) -> str:
        since, then = self._marks[0]
        if now - since < 0.5 or done <= then:
            return ""
        speed = (done - then) / (now - since)
        left = (total - done) / speed
        return f"  {speed / 1e9:.2f} GB/s  {duration(left)} left"

    def __enter__(self) -> "Transfer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.end()


def size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}" if count < 1000 * scale else f"{count / scale:.0f} {unit}"
    return f"{count} B"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
