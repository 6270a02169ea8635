"""What the farm itself says (why a job waits, what was wrong with a wish), put into the reader's language.

The farm speaks English; a sentence without a pattern here stays as it is. The pairs are in sentences.txt.
"""

import re
from functools import cache
from pathlib import Path

_HOLE = re.compile(r"\\{(=?)(\w+)\\}")


def said(text: str, lang: str) -> str:
    """`text` in the language `lang`, sentence by sentence."""
    return _chinese(text).replace("（ ", "（") if lang == "zh" and text else text


@cache
def _patterns() -> list[tuple[re.Pattern[str], str, frozenset[str]]]:
    found: list[tuple[re.Pattern[str], str, frozenset[str]]] = []
    lines = (Path(__file__).parent / "sentences.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    for english, chinese in zip(lines[::2], lines[1::2], strict=True):
        spelled = re.escape(english)
        kept = frozenset(m[2] for m in _HOLE.finditer(spelled) if m[1])
        found.append((re.compile(_HOLE.sub(_filler, spelled), re.I | re.S), chinese[4:], kept))
    return found


def _filler(hole: re.Match[str]) -> str:
    """What may stand there: a name of one letter is a number, which has no spaces."""
    return rf"(?P<{hole[2]}>{r'[^ ]+?' if len(hole[2]) == 1 else '.+?'})"


def _chinese(text: str) -> str:
    sentences = text.split(". ")
    if len(sentences) > 1:
        return "。".join(_chinese(one) for one in sentences)
    whole = _phrase(text.rstrip("."))
    if whole is not None:
        return whole + ("。" if text.endswith(".") else "")
    for seam, joint in (("; ", "；"), (": ", "：")):  # parts that may be known by themselves
        parts = text.split(seam)
        if len(parts) > 1:
            return joint.join(_chinese(part) for part in parts)
    return text


def _phrase(text: str) -> str | None:
    for pattern, chinese, kept in _patterns():
        if match := pattern.fullmatch(text.strip()):
            parts = {name: value if name in kept else _chinese(value) for name, value in match.groupdict().items()}
            return chinese.format(**parts)
    return None
