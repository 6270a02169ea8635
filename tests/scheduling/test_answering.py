"""The reaper's guard: only after one full TTL of answers does an expired lease mean a silent worker."""

import pytest

from farm.scheduling.answering import Answering


@pytest.fixture
def now():
    return [100.0]


@pytest.fixture
def guard(now):
    return Answering(30.0, lambda: now[0])


def rounds(guard, now, seconds):
    """It answers every second; the last answer is what the reaper heeds."""
    for _ in range(seconds):
        now[0] += 1.0
        said = guard.answered()
    return said


def test_not_before_it_has_answered_for_one_ttl(guard, now):
    assert not guard.answered()
    assert not rounds(guard, now, 29)
    assert rounds(guard, now, 1)


def test_a_failure_begins_the_time_anew(guard, now):
    assert rounds(guard, now, 40)
    guard.failed()
    assert not rounds(guard, now, 29)
    assert rounds(guard, now, 1)


def test_a_gap_in_which_nobody_asked_may_have_been_a_sleep_of_all(guard, now):
    assert rounds(guard, now, 40)
    now[0] += 16.0
    assert not guard.answered()
    assert not rounds(guard, now, 29)
    assert rounds(guard, now, 1)


def test_a_slow_round_is_no_gap(guard, now):
    assert rounds(guard, now, 40)
    now[0] += 15.0
    assert guard.answered()
