"""Reading what people sent, field by field: names, numbers, flags, text that can be stored. Pure."""

import difflib
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from farm.domain.errors import InvalidRequest, PromptRefused

FIELDS = (
    "prompt", "model", "size", "seconds", "frames", "steps", "seed", "guidance", "negative_prompt",
    "priority", "hold", "project", "tags", "image", "input_reference", "fit",
    "depends_on", "requires", "aspect", "quality", "ode", "expand", "not_before",
)  # fmt: skip


_OR_LEAVE_OUT = "write it in digits, or leave it out for the default"


@dataclass(frozen=True)
class Fields:
    """The mapping a person sent, read field by field."""

    body: Mapping[str, Any]
    known: Sequence[str] = field(default=FIELDS)

    def __post_init__(self) -> None:
        for name in self.body:
            if name not in self.known:
                near = difflib.get_close_matches(str(name), self.known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known fields: {', '.join(self.known)}"
                raise InvalidRequest(f"there is no field called {quote(str(name))}", hint, str(name)[:80])

    def get(self, name: str) -> Any:
        value = self.body.get(name)
        return None if isinstance(value, str) and not value.strip() and name != "prompt" else value

    def integer(self, name: str) -> int | None:
        value = self.get(name)
        if value is None:
            return None
        number = number_of(value)
        if number is None or not number.is_integer():
            raise InvalidRequest(f"{name} must be a whole number, not {quote(value)}", _OR_LEAVE_OUT, name)
        # Above 2^53 a float has lost digits: read the integer itself.
        return value if isinstance(value, int) else int(number)

    def number(self, name: str) -> float | None:
        value = self.get(name)
        if value is None:
            return None
        number = number_of(value)
        if number is None:
            raise InvalidRequest(f"{name} must be a number, not {quote(value)}", _OR_LEAVE_OUT, name)
        return number

    def flag(self, name: str) -> bool:
        value = self.get(name)
        if value is None:
            return False
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in {"true", "1", "on", "yes"}:
            return True
        if isinstance(value, str) and value.lower() in {"false", "0", "off", "no"}:
            return False
        raise InvalidRequest(f"{name} must be true or false, not {quote(value)}", "leave it out for false", name)


def refuse_unwritable(body: Mapping[str, Any]) -> None:
    """JSON can spell half characters and NUL; no database or file name can hold them."""
    prompt = body.get("prompt")
    if isinstance(prompt, str) and any(
        unicodedata.category(c) in {"Cs", "Cc"} and c not in "\n\r\t" for c in prompt
    ):
        raise PromptRefused(
            "the prompt contains control characters or broken Unicode", "save it as UTF-8 text", "prompt"
        )
    for name, value in body.items():
        if name != "prompt" and any("\ud800" <= c <= "\udfff" for c in f"{name}{value}"):
            raise InvalidRequest(f"{quote(name)} contains broken Unicode", "send UTF-8 text", quote(name))


def number_of(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value) if len(str(value)) < 400 else math.inf
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def quote(value: object) -> str:
    """The value as people wrote it, short and printable."""
    text = repr(value) if not isinstance(value, str) else value
    text = text.encode("utf-8", "replace").decode()
    return f"'{text[:60]}…'" if len(text) > 60 else f"'{text}'"
