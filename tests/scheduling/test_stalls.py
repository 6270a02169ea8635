"""Deadlines of stages, from what others took."""

import pytest

from farm.domain.states import StageName
from farm.scheduling.stalls import ENOUGH, Sample, StallLimits, deadline, p95

SHAPE = ("m", 832, 480, 81)
LIMITS = StallLimits(times=3, floor=10, loading=100, unknown=200)


def samples(count, steps=4, shape=SHAPE, **timings):
    return [Sample(shape, steps, timings)] * count


def test_a_denoise_step_is_judged_by_one_step_and_other_stages_by_the_whole():
    made = samples(ENOUGH, denoise=40.0, decode=40.0)
    assert deadline(StageName.DENOISE, SHAPE, made, LIMITS) == 30
    assert deadline(StageName.DECODE, SHAPE, made, LIMITS) == 120


def test_nothing_quick_is_judged_by_less_than_the_floor():
    assert deadline(StageName.TEXT, SHAPE, samples(ENOUGH, text=0.1), LIMITS) == 10


def test_too_few_alike_say_nothing():
    others = samples(99, shape=("m", 1280, 720, 81), decode=1.0)
    assert deadline(StageName.DECODE, SHAPE, samples(ENOUGH - 1, decode=1.0) + others, LIMITS) == 200
    assert deadline(StageName.IMAGE, SHAPE, samples(99, decode=1.0), LIMITS) == 200


def test_loading_has_its_own_patience_and_uploading_has_no_end():
    made = samples(ENOUGH, loading=1.0, upload=1.0)
    assert deadline(StageName.LOADING, SHAPE, made, LIMITS) == 100
    assert deadline(StageName.UPLOAD, SHAPE, made, LIMITS) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0], 3.0), ([1.0, 2.0, 3.0, 4.0, 5.0], 5.0), ([float(n) for n in range(1, 101)], 95.0)],
)
def test_p95_is_what_95_of_100_do_not_exceed(values, expected):
    assert p95(values) == expected
