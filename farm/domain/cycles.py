"""Whether jobs wait for each other in a ring, in which none could ever begin. Pure."""

from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def cycle(needs: Mapping[T, Iterable[T]]) -> list[T] | None:
    """One ring, each followed by one that it needs, or None. Not recursive: a chain may be as long as a batch."""
    done: set[T] = set()
    for first in needs:
        path: list[T] = []
        on_path: set[T] = set()
        todo: list[tuple[T, bool]] = [(first, False)]
        while todo:
            here, left = todo.pop()
            if left:
                done.add(path.pop())
                on_path.discard(here)
                continue
            if here in on_path:
                return path[path.index(here) :]
            if here in done:
                continue
            path.append(here)
            on_path.add(here)
            todo.append((here, True))
            todo += [(there, False) for there in needs.get(here, ())]
    return None
