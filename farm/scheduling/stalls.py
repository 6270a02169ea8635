"""How long a stage may go without progress before its process counts as hung: pure, from what others took."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from farm.domain.job import JobSpec
from farm.domain.states import StageName

SHAPE = tuple[str, int, int, int]  # model, width, height, frames
ENOUGH = 5  # samples from which a p95 may be taken


@dataclass(frozen=True)
class StallLimits:
    """`times` a stage's p95 is too long; `floor` seconds never are, nor `loading` while a model is loaded.

    unknown: seconds where too few have done the same, for a first render compiles and tunes.
    """

    times: float = 4.0
    floor: float = 120.0
    loading: float = 1200.0
    unknown: float = 1800.0

    @property
    def shortest(self) -> float:
        return min(self.floor, self.loading, self.unknown)


@dataclass(frozen=True)
class Sample:
    """One video that was made: seconds per stage."""

    shape: SHAPE
    steps: int
    timings: Mapping[str, float]


def shape_of(spec: JobSpec) -> SHAPE:
    return spec.model, spec.width, spec.height, spec.frames


def deadline(stage: StageName, shape: SHAPE, samples: Sequence[Sample], limits: StallLimits) -> float | None:
    """Seconds without progress after which a job of this shape hangs in `stage`; None: it may wait for ever.

    Denoise moves with every step, so its share of one step counts; any other stage makes one move, its end.
    """
    if stage is StageName.UPLOAD:
        return None  # it may be waiting for the store or the database, with a finished video
    if stage is StageName.LOADING:
        return limits.loading
    alike = [s for s in samples if s.shape == shape and s.timings.get(stage, 0.0) > 0.0]
    if len(alike) < ENOUGH:
        return limits.unknown
    took = [s.timings[stage] / (s.steps if stage is StageName.DENOISE else 1) for s in alike]
    return max(limits.floor, limits.times * p95(took))


def p95(values: Sequence[float]) -> float:
    """The value that 95 of 100 do not exceed. At least one value."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]
