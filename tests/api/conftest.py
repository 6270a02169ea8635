"""The fixtures of `tests.served`, for this folder."""

from tests.served.farm import client, machine, migrated_bytes, served, services

__all__ = ["client", "machine", "migrated_bytes", "served", "services"]
