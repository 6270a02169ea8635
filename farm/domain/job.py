"""A job as every layer but the database sees it: frozen, typed, no I/O."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

from farm.domain.states import After, JobState, Outcome, StageName

MAX_PRIORITY = 100  # and the least is its negative


@dataclass(frozen=True)
class JobSpec:
    """What is to be rendered. Immutable once accepted; stored as JSON.

    width, height in pixels; frames = 4k + 1; fps in frames per second; guidance is the weight of
    classifier-free guidance (1 = off, always 1 for distilled models). image is the sha256 of the first
    frame's PNG in the store (farm.storage.images), and fit how it fills another shape. quality (fast, best; None:
    the model's own) is how much sparse attention looks at; ode: no fresh noise between distilled steps; expand: the
    operator's expander makes the prompt longer before it is rendered.
    """

    kind: str
    model: str
    model_digest: str
    prompt: str
    width: int
    height: int
    frames: int
    fps: int
    steps: int
    seed: int
    guidance: float
    negative_prompt: str | None = None  # None: the model's own, where it has one
    image: str | None = None
    fit: str = "crop"
    quality: str | None = None
    ode: bool = False
    expand: bool = False

    def canonical(self) -> str:
        """One spelling per spec, for comparing and hashing. What has its default is left out."""
        # A spec that was written before a field existed must still be spelled as it was.
        said = {k: v for k, v in asdict(self).items() if k not in _DEFAULTS or v != _DEFAULTS[k]}
        return json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "JobSpec":
        return cls(**json.loads(text))


_DEFAULTS = {f.name: f.default for f in fields(JobSpec) if f.default is not MISSING}


@dataclass(frozen=True)
class Requires:
    """What a worker must have to be given a job: all of these tags, this pool, `memory` bytes, so many GPUs."""

    tags: tuple[str, ...] = ()
    pool: str | None = None
    memory: int = 0
    gpus: int = 1


@dataclass(frozen=True)
class Dependency:
    """A job waits for `needs` to end as `after` says. `state`: of the one it waits for, where that is known.

    needs: an id (or its beginning) while it is a wish, or KEY_OF and the idempotency key of a job of the same
    owner and batch; always an id once it is accepted.
    """

    needs: str
    after: After = After.SUCCESS
    state: JobState | None = None

    @property
    def met(self) -> bool:
        if self.after is After.SUCCESS:
            return self.state is JobState.SUCCEEDED
        return self.state is not None and self.state.final

    @property
    def hopeless(self) -> bool:
        """It ended, and not as it had to."""
        return self.state is not None and self.state.final and not self.met


KEY_OF = "key:"


@dataclass(frozen=True)
class NewJob:
    """An accepted wish that is not yet a row. `idempotency_key` is scoped by owner (and batch).

    note: what was decided for the person who asked, to be told once; it is not kept.
    """

    spec: JobSpec
    owner: str = "local"
    project: str = "default"
    batch: str | None = None
    idempotency_key: str | None = None
    priority: int = 0
    hold: bool = False
    interactive: bool = True
    not_before: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    note: str | None = None
    depends_on: tuple[Dependency, ...] = ()
    requires: Requires | None = None


@dataclass(frozen=True)
class Artifact:
    """A whole video in the store. Keys are relative to the store's root."""

    key: str
    sha256: str
    bytes: int
    frames: int
    seconds: float
    poster_key: str


@dataclass(frozen=True)
class JobError:
    code: str
    message: str
    next: str = ""


@dataclass(frozen=True)
class Progress:
    """Where an active job is. `k` of `n` denoise steps; 0 of 0 in stages without steps."""

    stage: StageName
    k: int = 0
    n: int = 0
    preview_step: int | None = None  # newest latent preview in the store
    worker: str | None = None


@dataclass(frozen=True)
class Job:
    """One row of `jobs`, joined with its lease if it has one.

    memory_plan: how often it was moved to the next smaller plan; memory_above: bytes of the largest card that
    was too small even for the smallest; avoid: GPUs on which it faulted; rest_until: lost again and again,
    nobody gets it before; video_removed_at: its video has made room for others.
    """

    id: str
    spec: JobSpec
    state: JobState
    owner: str
    project: str
    batch: str | None
    lane: str
    idempotency_key: str | None
    priority: int
    epoch: int
    failures: int
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    not_before: datetime | None
    cancel_requested_at: datetime | None
    artifact: Artifact | None
    error: JobError | None
    progress: Progress | None
    tags: Mapping[str, str]
    expanded_prompt: str | None = None
    requires: Requires | None = None
    memory_plan: int = 0
    memory_above: int | None = None
    avoid: tuple[str, ...] = ()
    rest_until: datetime | None = None
    video_removed_at: datetime | None = None


@dataclass(frozen=True)
class Attempt:
    """One claim of a job. `timings` are seconds per stage; `peak_memory` in bytes of the device.

    blamed: it counts towards the cap after which the job fails as poison.
    """

    job: str
    epoch: int
    worker: str
    gpu: str
    outcome: Outcome | None
    timings: Mapping[str, float]
    peak_memory: int | None
    cause: str | None
    claimed_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    blamed: bool = False


@dataclass(frozen=True)
class Assignment:
    """What a worker is given: the job, and the fencing token of this claim.

    memory_plan: 0 is what the model plans by itself for the card, each one more keeps less on it.
    expanded_prompt: written by an earlier claim, so that it need not be made again.
    """

    job: str
    epoch: int
    worker: str
    spec: JobSpec
    memory_plan: int = 0
    expanded_prompt: str | None = None

    @property
    def prefix(self) -> str:
        """Where this claim, and no other, may write in the store."""
        return f"videos/{self.job}/{self.epoch}"

    def preview_key(self, step: int) -> str:
        return f"{self.prefix}/preview-{step}.jpg"


@dataclass(frozen=True)
class Submitted:
    """`created` is False where an idempotency key found the job that was already there."""

    job: Job
    created: bool


@dataclass(frozen=True)
class Event:
    """One row of the outbox. `kind`: job | worker | gpu | node | batch; `data` holds the changed fields."""

    id: int
    kind: str
    subject: str
    data: Mapping[str, Any]
    at: datetime


def batch_row_key(row: Mapping[str, Any], occurrence: int) -> str:
    """sha256 of a batch row's canonical content and its n-th occurrence in the file (0-based)."""
    # In ASCII: a row may hold broken Unicode, and it is for the checks of its fields to say so.
    text = json.dumps([row, occurrence], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def seed_from_key(key: str) -> int:
    """The seed of a batch row that names none: 32 bits of its key, so a rerun draws the same noise."""
    return int(key[:8], 16)
