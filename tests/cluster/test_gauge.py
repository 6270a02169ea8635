"""How hard a device works: what cards tell, what they keep to themselves, and ten minutes of it."""

import json
from pathlib import Path

import pytest

from farm.cluster import gauge
from farm.cluster.gauge import EVERY, KEPT, Gauge
from farm.domain.worker import Load


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "use"
    monkeypatch.setenv("FARM_NVML", "tests.cluster.fake_nvml")
    monkeypatch.setenv("FAKE_GPUS", "GPU-a")
    monkeypatch.setenv("FAKE_GPU_USE", str(path))
    return path


def test_a_card_is_asked_now_and_then_and_ten_minutes_are_kept(use: Path) -> None:
    clock = Clock()
    one = Gauge("GPU-a", clock)
    assert one.look() == Load(), "nothing is known before the first look"
    for n in range(KEPT + 5):
        use.write_text(json.dumps({"GPU-a": {"busy": n, "celsius": 40 + n, "milliwatts": 321_600, "used": 7}}))
        clock.now += EVERY
        found = one.look()
        clock.now += EVERY / 2
        use.write_text(json.dumps({"GPU-a": {"busy": 0}}))
        assert one.look() == found, "not asked again so soon"
        clock.now -= EVERY / 2
    last = KEPT + 4
    assert (found.utilisation, found.memory, found.temperature, found.power) == (last, 7, 40 + last, 322)
    assert found.utilisations == tuple(range(5, KEPT + 5))
    assert found.temperatures == tuple(range(45, KEPT + 45))


def test_what_a_card_does_not_tell_stays_unknown_and_a_lost_one_tells_nothing(use: Path) -> None:
    clock = Clock()
    one = Gauge("GPU-a", clock)
    use.write_text('{"GPU-a": {"busy": 12, "used": 5}}')
    clock.now += EVERY
    assert one.look() == Load(12, 5, None, None, (12,), ())
    use.write_text('{"GPU-a": {"lost": 15}}')
    clock.now += EVERY
    assert one.look().utilisation is None
    use.unlink()
    clock.now += EVERY
    assert Gauge("GPU-z", clock).look() == Load()


def test_a_worker_without_a_card_tells_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, spent = Clock(), 5.0
    monkeypatch.setattr(gauge.time, "process_time", lambda: spent)
    monkeypatch.setattr(gauge, "usable_cores", lambda: 4)
    one = Gauge(None, clock)
    clock.now += EVERY
    assert one.look() == Load(0, None, None, None, (0,), ())
    clock.now += EVERY
    spent += 3 * EVERY  # three of four cores
    assert one.look() == Load(75, None, None, None, (0, 75), ())
