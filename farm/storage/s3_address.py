"""s3://bucket/prefix?endpoint=...&region=...&style=...: what it says, and how people may see it."""

import os
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from farm.domain.address import shown
from farm.domain.errors import InvalidRequest

_OPTIONS = ("endpoint", "region", "style")
_EXAMPLE = "use s3://bucket/prefix?endpoint=https://host:port"


@dataclass(frozen=True)
class S3Address:
    """`prefix` ends with a slash unless it is empty. `endpoint` None: Amazon's own."""

    bucket: str
    prefix: str
    endpoint: str | None
    region: str | None
    style: str  # path | virtual | auto

    @classmethod
    def parse(cls, url: str) -> "S3Address":
        """Raises InvalidRequest."""
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise _wrong(
                "the address of the store holds a name or password", "set AWS_ACCESS_KEY_ID and its secret"
            )
        options = dict(parse_qsl(parts.query))
        if not parts.netloc or parts.scheme != "s3":
            raise _wrong(f"{shown(url)!r} names no bucket", _EXAMPLE)
        if strange := sorted(set(options) - set(_OPTIONS)):
            raise _wrong(
                f"the address of the store has an unknown option {strange[0]!r}", f"{_EXAMPLE} and region="
            )
        endpoint = (
            options.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        )
        if endpoint and urlsplit(endpoint).scheme not in {"http", "https"}:
            raise _wrong(f"the endpoint {shown(endpoint)!r} is no http address", _EXAMPLE)
        # Only Amazon, and clouds that say so, give each bucket a host name of its own.
        style = options.get("style") or ("path" if endpoint else "auto")
        if style not in {"path", "virtual", "auto"}:
            raise _wrong(f"the style {style!r} of the store is unknown", "style=path or style=virtual")
        prefix = parts.path.strip("/")
        return cls(parts.netloc, f"{prefix}/" if prefix else "", endpoint or None, options.get("region"), style)

    @property
    def shown(self) -> str:
        where = "" if self.endpoint is None else "?" + urlencode({"endpoint": shown(self.endpoint)}, safe=":/*")
        return f"s3://{self.bucket}/{quote(self.prefix)}".rstrip("/") + where


def with_endpoint(url: str, endpoint: str) -> str:
    """`url` with this endpoint, unless it names one itself."""
    if not endpoint or not url.startswith("s3://") or "endpoint=" in urlsplit(url).query:
        return url
    return f"{url}{'&' if '?' in url else '?'}{urlencode({'endpoint': endpoint}, safe=':/')}"


def _wrong(message: str, next: str) -> InvalidRequest:
    return InvalidRequest(message, next, field="store")
