"""The fixtures of `tests.served`."""

from tests.served.farm import machine, migrated_bytes, served, services

__all__ = ["machine", "migrated_bytes", "served", "services"]
