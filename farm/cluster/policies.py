"""The farm's options as the protocol's policies."""

from farm.scheduling.quarantine import QuarantinePolicy
from farm.scheduling.stalls import StallLimits
from farm.settings import Settings


def stall_limits(settings: Settings) -> StallLimits:
    """How long a stage may go without progress."""
    return StallLimits(settings.stall_times, settings.stall_floor, settings.stall_loading, settings.stall_unknown)


def quarantine_policy(settings: Settings) -> QuarantinePolicy:
    """When a card is set aside, and for how long."""
    return QuarantinePolicy(faults=settings.quarantine_after, seconds=settings.quarantine_seconds)
