"""Addresses of databases and stores as people may see them: without their secrets; and which are this machine's."""

import ipaddress
import re

_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):([^@\s]+)@")
_SECRET_OPTION = re.compile(r"(?i)([?&][^=&\s]*(?:password|secret|token|signature|credential)[^=&\s]*)=([^&\s]+)")
_TOKEN = re.compile(r"(farm_[a-z2-7]{8})_[A-Za-z0-9_-]{43}")


def shown(url: str) -> str:
    """`url` with *** for every password and token in it; also for a longer text that holds URLs."""
    return _SECRET_OPTION.sub(r"\1=***", _PASSWORD.sub(r"\1:***@", _TOKEN.sub(r"\1_***", url)))


def is_loopback(host: str) -> bool:
    """Whether only this machine's own users reach what listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
