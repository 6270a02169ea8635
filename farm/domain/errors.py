"""Every error a person can meet: a stable code, one clear message, and what to do next."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the `farm` command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3
    NOT_SIGNED_IN = 4
    UNREACHABLE = 5


class FarmError(Exception):
    """What went wrong (`message`) and what helps (`next`); `field` names the offending input."""

    code = "internal_error"
    status = 500
    exit = Exit.FAILED

    def __init__(self, message: str, next: str = "", field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next = next
        self.field = field


class InvalidRequest(FarmError):
    code = "invalid_request"
    status = 422
    exit = Exit.USAGE


class UnknownModel(InvalidRequest):
    code = "unknown_model"


class PromptRefused(InvalidRequest):
    code = "invalid_prompt"


class JobNotFound(FarmError):
    code = "job_not_found"
    status = 404


class WorkerNotFound(FarmError):
    code = "worker_not_found"
    status = 404


class NodeNotFound(FarmError):
    code = "node_not_found"
    status = 404


class GpuNotFound(FarmError):
    code = "gpu_not_found"
    status = 404


class TokenNotFound(FarmError):
    code = "token_not_found"
    status = 404


class NotSignedIn(FarmError):
    """Nobody said who they are, or not in a way that the farm believes."""

    code = "not_signed_in"
    status = 401
    exit = Exit.NOT_SIGNED_IN


class TooManyTries(FarmError):
    code = "too_many_tries"
    status = 429
    exit = Exit.NOT_SIGNED_IN


class NotAllowed(FarmError):
    """The farm knows who asks, and this is not theirs to do."""

    code = "not_allowed"
    status = 403
    exit = Exit.NOT_SIGNED_IN


class NotReady(FarmError):
    """The thing exists but not yet: the video of a job that has not succeeded."""

    code = "not_ready"
    status = 409


class VideoRemoved(FarmError):
    """It was made, and has made room for others since."""

    code = "video_removed"
    status = 410


class StateConflict(FarmError):
    """The job is in a state from which the asked transition does not exist."""

    code = "state_conflict"
    status = 409


class IdempotencyConflict(FarmError):
    code = "idempotency_conflict"
    status = 409
    exit = Exit.USAGE


class FolderUnusable(FarmError):
    """Read-only, not a folder, or on a full disk."""

    code = "folder_unusable"


class FolderInUse(FarmError):
    """A second farm on the same folder."""

    code = "farm_already_running"


class PortInUse(FarmError):
    code = "port_in_use"


class DiskFull(FarmError):
    code = "disk_full"
    status = 507


class SchemaOutdated(FarmError):
    code = "schema_outdated"


class DatabaseUnavailable(FarmError):
    code = "database_unavailable"
    status = 503


class DatabaseRefused(DatabaseUnavailable):
    """The server answers, but not to us: password, rights, a database that is not there."""

    code = "database_refused"


class TransactionConflict(DatabaseUnavailable):
    """Rolled back for certain, because another transaction was in the way: the same call may be made again."""


class StorageUnavailable(FarmError):
    code = "storage_unavailable"
    status = 503


class StorageRefused(StorageUnavailable):
    """The store answers, but not to us: key, rights, a bucket that is not there."""

    code = "storage_refused"


class ObjectNotFound(FarmError):
    """The store has no object of this key."""

    code = "object_not_found"
    status = 404


class BrokenVideo(FarmError):
    """Encoded, but not a video that may be shown: cut short, of the wrong size, undecodable."""

    code = "broken_video"


class BlackVideo(BrokenVideo):
    code = "black_video"


class FrozenNoise(BrokenVideo):
    code = "frozen_noise"


class TagsLost(FarmError):
    """The file does not say about itself what was written into it."""

    code = "tags_lost"


class FarmUnreachable(FarmError):
    code = "farm_unreachable"
    exit = Exit.UNREACHABLE
