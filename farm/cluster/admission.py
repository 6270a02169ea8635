"""Whether a worker may use its device: it is there, free of the last one, and after a quarantine it passes a probe.

What speaks against it is told to the database, so that nobody is sent there and people see why.
"""

from farm.cluster import device, probe, vacancy
from farm.cluster.card import DeviceLost, check_there
from farm.cluster.policies import quarantine_policy
from farm.cluster.resident import Resident
from farm.cluster.slots import Slot
from farm.cluster.vacancy import DeviceNotFree
from farm.db import quarantines
from farm.db.engine import Database
from farm.domain.errors import FarmError
from farm.ops.logging import Log
from farm.settings import Settings
from model.wan.config import Preset


class NotAdmitted(FarmError):
    """The worker's process is to end."""

    code = "not_admitted"


def take(slot: Slot, settings: Settings, worker: str, db: Database, log: Log) -> None:
    """Two processes on one card would both run out of memory. Raises NotAdmitted."""
    try:
        if slot.is_gpu:
            check_there(slot.gpu)
        vacancy.enter(slot, settings, worker, log)
    except (DeviceLost, DeviceNotFree) as error:
        log.error(error.code, error, next=error.next)
        policy = quarantine_policy(settings)
        probed = quarantines.probe_failed(db, slot.gpu, error.message, policy)
        if not probed and not _is_aside(slot, db):  # a person may have set it aside meanwhile, for longer
            quarantines.put(db, slot.gpu, f"{error.message}; {error.next}", "its worker", policy.seconds)
        why = "is lost" if isinstance(error, DeviceLost) else "is not free"
        raise NotAdmitted(f"its device {why}") from error


def prove(
    slot: Slot, settings: Settings, resident: Resident, preset: Preset | None, db: Database, log: Log
) -> None:
    """The probe after a quarantine. Raises NotAdmitted, unless the device is released by it."""
    try:
        said = probe.run(resident, preset, slot.is_gpu)
    except Exception as error:  # whatever it is, the card is not to be trusted with a job
        log.error("probe_failed", error)
        found = f"{type(error).__name__}: {device.first_line(error)}"
        quarantines.probe_failed(db, slot.gpu, found, quarantine_policy(settings))
        raise NotAdmitted("its device failed the probe") from error
    released = quarantines.probe_passed(db, slot.gpu, said)
    log.info("probe_passed", found=said, released=released)
    if not released and _is_aside(slot, db):
        raise NotAdmitted("somebody has prolonged the quarantine")


def _is_aside(slot: Slot, db: Database) -> bool:
    return any(one.gpu == slot.gpu for one in quarantines.find(db))
