"""Whose fault an exception is: the table of outcome classes, read from the top down."""

import re
from dataclasses import dataclass

from farm.cluster import device
from farm.cluster.claim import Claim
from farm.domain.errors import BrokenVideo, DatabaseUnavailable, DiskFull, FolderUnusable, StorageUnavailable
from farm.domain.job import JobError
from farm.domain.states import Outcome
from farm.media.image import ImageRefused
from farm.storage.images import ImageMissing
from model.errors import CorruptWeights, ModelError, NotNumbers, RenderCancelled

AWAY = (StorageUnavailable, DatabaseUnavailable, DiskFull, FolderUnusable)
# What CUDA, its libraries and the driver say when it is the device, or the process's hold on it, that broke.
_OF_THE_DEVICE = re.compile(
    r"CUDA error|CUDA driver error|cuDNN error|CUDNN_STATUS|CUBLAS_STATUS|CUFFT|NCCL|HIP error|device-side assert"
    r"|illegal memory access|unspecified launch failure|misaligned address|uncorrectable|\bECC\b|\bXid\b"
    r"|fallen off the bus",
    re.IGNORECASE,
)


class Stopped(Exception):
    """The claim must not go on; `outcome` says why: CANCELLED, DRAIN or LOST."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


@dataclass(frozen=True)
class Fault:
    """The class of the attempt and what is said about it. `suspect`: this process must not render again."""

    outcome: Outcome
    error: JobError
    suspect: bool = False


def with_word_of_card(fault: Fault, complaint: str) -> Fault:
    """What nobody foresaw is the card's fault where it says so itself (`Card.complaint`)."""
    if not complaint or not fault.suspect:
        return fault
    error = JobError("device_fault", f"{fault.error.message}; {complaint}", fault.error.next)
    return Fault(Outcome.DEVICE_FAULT, error, suspect=True)


def classify(claim: Claim, error: Exception) -> Fault:
    if isinstance(error, (Stopped, RenderCancelled)):
        # It may have been renewed after all, too late for this render: then the job is ours to give back.
        why = error.outcome if isinstance(error, Stopped) else claim.must_stop() or Outcome.DRAIN
        return Fault(why, JobError(why, f"stopped: {why}"))
    if isinstance(error, CorruptWeights):
        return Fault(Outcome.USER_ERROR, JobError("corrupt_weights", error.message, error.next))
    if isinstance(error, ModelError):
        return Fault(Outcome.USER_ERROR, JobError("invalid_request", error.message, error.next))
    if isinstance(error, (ImageMissing, ImageRefused)):
        return Fault(Outcome.USER_ERROR, JobError(error.code, error.message, error.next))
    if isinstance(error, AWAY):
        return Fault(Outcome.DEPENDENCY, JobError(error.code, error.message, error.next))
    said = f"{type(error).__name__}: {device.first_line(error)}"
    if device.is_out_of_memory(error):
        return Fault(Outcome.OUT_OF_MEMORY, JobError("out_of_memory", device.first_line(error)))
    if isinstance(error, BrokenVideo):  # cut short, black, or noise: so it looks when a card computes wrongly
        return Fault(Outcome.DEVICE_FAULT, JobError(error.code, said), suspect=True)
    if isinstance(error, NotNumbers):
        return Fault(Outcome.DEVICE_FAULT, JobError("not_numbers", said), suspect=True)
    if _OF_THE_DEVICE.search(str(error)):
        return Fault(Outcome.DEVICE_FAULT, JobError("device_fault", said), suspect=True)
    # Nobody foresaw it. The job may be to blame, the card is not: two such jobs must not close a good one.
    return Fault(Outcome.LOST, JobError("worker_fault", said), suspect=True)
