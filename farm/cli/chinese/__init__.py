"""What the command line says, in Chinese: FARM_LANG=zh. Sentences are found by their English form.

The server speaks English to every client; here its sentences are recognised, holes and all, and said again. What is
not known stays as it is, so that no message is ever lost. Loaded only where Chinese is asked for.
"""

import functools
import re

from farm.cli.chinese import doctor, jobs, shell, wishes

_DEEP = 4  # sentences within sentences
_LONGEST = 4000  # nobody waits for a pattern over a page of text
_HOLE = "{}"

PHRASES: dict[str, str] = {**wishes.PHRASES, **shell.PHRASES, **jobs.PHRASES, **doctor.PHRASES}


def translate(text: str, depth: int = 0) -> str:
    """The Chinese of a known sentence, of several joined by "; ", or `text` itself."""
    if not text or text.isspace() or len(text) > _LONGEST or depth > _DEEP:
        return text
    if text in PHRASES:
        return PHRASES[text].format()
    for anchor, pattern, chinese in _patterns():
        if anchor in text and (found := pattern.fullmatch(text)):
            return chinese.format(*(translate(part, depth + 1) for part in found.groups("")))
    for joint, comma in (("; ", "；"), (". ", "。")):
        head, joined, tail = text.partition(joint)
        if joined:
            parts = translate(head, depth + 1), translate(tail, depth + 1)
            if parts != (head, tail):
                return parts[0].rstrip("。") + comma + parts[1]
    return text


@functools.cache
def _patterns() -> list[tuple[str, re.Pattern[str], str]]:
    """The longest piece without a hole, the pattern, and the Chinese with numbered holes; the most telling first."""
    found: list[tuple[str, re.Pattern[str], str]] = []
    for english, chinese in PHRASES.items():
        if _HOLE in english:
            pieces = english.split(_HOLE)
            pattern = re.compile("(.*?)".join(map(re.escape, pieces)), re.DOTALL)
            found.append((max(pieces, key=len), pattern, chinese))
    return sorted(found, key=lambda one: -len(one[1].pattern))
