"""Addresses of databases and stores as people may see them: without their secrets."""

import re

_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):([^@\s]+)@")
_SECRET_OPTION = re.compile(r"(?i)([?&][^=&\s]*(?:password|secret|token|signature|credential)[^=&\s]*)=([^&\s]+)")


def shown(url: str) -> str:
    """`url` with *** for every password in it; also for a longer text that holds URLs."""
    return _SECRET_OPTION.sub(r"\1=***", _PASSWORD.sub(r"\1:***@", url))
