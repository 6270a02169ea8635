"""A worker's process makes room for a new one after so many jobs, or when its memory drifts."""

from farm.cluster.wear import Memory, Wear

GIB = 1 << 30
START = Memory(4 * GIB, 20 * GIB)


def test_after_so_many_jobs():
    wear = Wear(after=3, drift=0.5)
    assert [wear.look(("m",), START) is None for _ in range(2)] == [True, True]
    worn = wear.look(("m",), START)
    assert worn is not None
    assert (worn.why, worn.jobs) == ("jobs", 3)


def test_zero_is_never():
    wear = Wear(after=0, drift=0.0)
    assert [wear.look(("m",), Memory(n * GIB, n * GIB)) for n in range(1000)] == [None] * 1000


def test_memory_that_grows_on_the_host_or_on_the_device():
    for now in (Memory(7 * GIB, 20 * GIB), Memory(4 * GIB, 31 * GIB)):
        wear = Wear(after=0, drift=0.5)
        assert wear.look(("m",), START) is None
        assert wear.look(("m",), Memory(5 * GIB, 29 * GIB)) is None
        worn = wear.look(("m",), now)
        assert worn is not None
        assert (worn.why, worn.baseline, worn.now) == ("memory", START, now)


def test_little_of_little_is_noise():
    wear = Wear(after=0, drift=0.5)
    wear.look(("m",), Memory(100 << 20, 0))
    assert wear.look(("m",), Memory(300 << 20, 200 << 20)) is None


def test_another_model_is_another_baseline():
    wear = Wear(after=0, drift=0.5)
    wear.look(("small",), START)
    assert wear.look(("large",), Memory(30 * GIB, 60 * GIB)) is None
    assert wear.look(("large",), Memory(60 * GIB, 60 * GIB)) is not None
