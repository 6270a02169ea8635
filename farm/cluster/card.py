"""What the card itself says of a render that failed: memory errors since the claim began, or that it is gone."""

from farm import gpus
from farm.domain.errors import FarmError


class DeviceLost(FarmError):
    """The driver cannot reach the card any more."""

    code = "device_lost"


def check_there(gpu: str) -> None:
    """Raises DeviceLost where the driver says so. Where nobody can tell, whoever computes on it will see."""
    health = gpus.health(gpu)
    if health is not None and health.lost:
        raise DeviceLost(
            f"the driver has lost the card: {health.lost}",
            "the machine's log says why (dmesg | grep Xid); reset the card, or restart the machine",
        )


class Card:
    """One worker's. `gpu` None: it has none, and nothing is ever said."""

    def __init__(self, gpu: str | None) -> None:
        self._gpu = gpu
        self._uncorrected: int | None = None

    def begin(self) -> None:
        """A claim is rendered from now on: what the card has counted before is not its fault."""
        health = self._health()
        self._uncorrected = None if health is None else health.uncorrected

    def complaint(self) -> str:
        """What has happened to the card since; "" where it says nothing."""
        health = self._health()
        if health is None:
            return ""
        if health.lost:
            return f"the driver has lost the card: {health.lost}"
        if self._uncorrected is None or health.uncorrected is None or health.uncorrected <= self._uncorrected:
            return ""
        return f"uncorrected memory errors (ECC) of the card meanwhile: {health.uncorrected - self._uncorrected}"

    def _health(self) -> gpus.Health | None:
        return None if self._gpu is None else gpus.health(self._gpu)
