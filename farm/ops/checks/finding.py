"""What a check of the doctor found. A check is a pure function of facts; readers bring the facts."""

import re
from dataclasses import dataclass
from enum import StrEnum

_URL_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):([^/@\s]+)@")
MIB, GIB = 1 << 20, 1 << 30


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """One sentence about one thing, and what to do about it (nothing where all is well)."""

    check: str
    verdict: Verdict
    sentence: str
    next: str = ""

    def without_secrets(self) -> "Finding":
        """A database's URL may carry a password, and errors repeat URLs."""
        return Finding(self.check, self.verdict, without_password(self.sentence), without_password(self.next))


def without_password(text: str) -> str:
    return _URL_PASSWORD.sub(r"\1:***@", text)


def ok(check: str, sentence: str) -> Finding:
    return Finding(check, Verdict.OK, sentence)


def warning(check: str, sentence: str, next: str) -> Finding:
    return Finding(check, Verdict.WARNING, sentence, next)


def failed(check: str, sentence: str, next: str) -> Finding:
    return Finding(check, Verdict.FAILED, sentence, next)


def size(number: float) -> str:
    """Bytes as people read them."""
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{number / MIB:.0f} MiB"
