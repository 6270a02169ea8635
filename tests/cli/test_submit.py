"""What `farm submit` can be told, and that what it was told reaches the job."""

from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from farm.cli.moments import moment
from farm.cli.submit import settings_of
from farm.domain.errors import InvalidRequest
from farm.media.check import decode
from farm.media.image import pixels
from farm.storage.images import image_key
from tests.cli.command import Command
from tests.library import I2V
from tests.served.farm import Served
from tests.served.machine import Machine
from tests.served.pictures import offer_i2v, picture

NOON = datetime(2026, 3, 28, 12, 0, tzinfo=ZoneInfo("Europe/Berlin"))  # the night before summer time


def finished(farm: Command, machine: Machine, *options: str) -> dict:
    made = farm("submit", *options, "--json").json
    machine.take()
    machine.finish()
    assert farm("download", made["id"], "-o", "v.mp4").code == 0
    return made


def same(first: dict, second: dict) -> bool:
    return all(first[name] == second[name] for name in ("prompt", "model", "size", "frames", "steps", "guidance"))


def test_the_settings_of_a_video_make_it_again_and_options_go_before(farm: Command, machine: Machine) -> None:
    made = finished(farm, machine, "一只红色的风筝", "--seed", "7", "--steps", "3")
    again = farm("submit", "--like", "v.mp4", "--json").json
    assert same(made, again)
    assert again["seed"] == 7
    other = farm("submit", "一条船", "--like", "v.mp4", "--seed", "8", "--steps", "2", "--json").json
    assert (other["prompt"], other["seed"], other["steps"], other["frames"]) == ("一条船", 8, 2, made["frames"])


def test_what_is_said_otherwise_takes_what_depends_on_it_along(farm: Command, machine: Machine) -> None:
    finished(farm, machine, "a kite")
    file = farm.cwd / "v.mp4"
    assert {"prompt", "size", "frames", "steps"} <= settings_of(file, {}).keys()
    assert "frames" not in settings_of(file, {"seconds": "5"})
    assert "size" not in settings_of(file, {"aspect": "1:1"})
    assert settings_of(file, {"model": "wan2.1-t2v-1.3b"}).keys() == {"prompt", "seed"}


def test_a_video_that_does_not_tell_is_refused(farm: Command, tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"hello")
    for name in ("x.mp4", "nowhere.mp4"):
        done = farm("submit", "--like", name)
        assert (done.code, done.out) == (2, "")
    assert farm("list", "--json").out == "[]\n"


def test_tags_project_and_priority_are_kept(farm: Command) -> None:
    wish = ("--project", "预告片", "--tag", "shot=12a", "--tag", "who = 王", "--priority", "7")
    job = farm("submit", "a kite", *wish, "--json").json
    assert (job["project"], job["tags"], job["priority"]) == ("预告片", {"shot": "12a", "who": "王"}, 7)
    refused = farm("submit", "a kite", "--tag", "shot")
    assert (refused.code, "KEY=VALUE" in refused.err) == (2, True)


def test_a_job_that_is_not_to_start_before_a_moment_is_scheduled(farm: Command) -> None:
    job = farm("submit", "a kite", "--not-before", "2h", "--json").json
    assert job["state"] == "scheduled"
    assert (
        timedelta(0)
        < datetime.fromisoformat(job["not_before"]) - datetime.now().astimezone()
        < timedelta(hours=2.1)
    )
    past = farm("submit", "a kite", "--not-before", "2020-01-01T00:00Z", "--json").json
    assert past["state"] == "queued"
    refused = farm("submit", "a kite", "--not-before", "soon")
    assert (refused.code, "22:00" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", "2026-03-28T13:30:00+01:00"),
        ("in 2 h", "2026-03-28T14:00:00+01:00"),
        ("22:00", "2026-03-28T22:00:00+01:00"),
        ("9:30", "2026-03-29T09:30:00+02:00"),
        ("2026-07-01T08:00", "2026-07-01T08:00:00+02:00"),
        ("2026-07-01T08:00-05:00", "2026-07-01T08:00:00-05:00"),
        ("2026-07-01", "2026-07-01T00:00:00+02:00"),
    ],
)
def test_moments_are_meant_in_the_time_of_the_place(text: str, expected: str) -> None:
    assert moment(text, NOON) == expected


@pytest.mark.parametrize("text", ["", "25:00", "soon", "10", "2026-13-01"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no moment"):
        moment(text, NOON.astimezone(timezone(timedelta(hours=8))))


def test_a_dry_run_tells_and_submits_nothing(farm: Command) -> None:
    plans = farm("submit", "一只风筝", "--dry-run", "--count", "3", "--seed", "4294967295", "--json").lines
    assert [plan["seed"] for plan in plans] == [4294967295, 0, 1]
    assert plans[0]["object"] == "dry_run"
    told = farm("submit", "a kite", "--dry-run")
    assert (told.code, "nothing was submitted" in told.err, "a kite" in told.out) == (0, True, True)
    assert farm("submit", "a kite", "--dry-run", "--frames", "16").code == 2
    assert farm("submit", "a kite", "--dry-run", "--wait").code == 2
    assert farm("list", "--json").out == "[]\n"


def test_a_job_waits_for_a_whole_batch(farm: Command, tmp_path: Path) -> None:
    (tmp_path / "night.txt").write_text("a kite\na boat\n")
    rows = farm("batch", "submit", "night.txt").out.split()
    last = farm("submit", "a star", "--after", "night", "--json").json
    assert {one["job"] for one in farm("show", last["id"], "--json").json["depends_on"]} == set(rows)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--aspect", "16:9"], "only"),
        (["--aspect", "wide"], "16:9"),
        (["--aspect", "9:1"], "the nearest is 4:1"),
        (["--aspect", "1:1", "--size", "96x96"], "not both"),
        (["--quality", "superb"], "best"),
        (["--adaptive-size"], "--image"),
        (["--continue", "job_nosuch"], "farm list"),
        (["--negative-prompt", "blur"], "leave the negative prompt out"),
    ],
)
def test_what_a_model_cannot_do_is_said_with_what_it_can(farm: Command, options: list[str], hint: str) -> None:
    done = farm("submit", "a kite", *options)
    assert done.code in {1, 2}
    assert hint in done.err
    assert farm("list", "--json").out == "[]\n"


def test_a_video_is_continued_from_its_last_frame(
    farm: Command, machine: Machine, served: Served, tmp_path: Path
) -> None:
    first = finished(farm, machine, "a kite")
    refused = farm("submit", "it lands", "--continue", first["id"])
    assert (refused.code, "models pull" in refused.err) == (2, True)
    offer_i2v(served.services)
    second = farm("submit", "it lands", "--continue", first["id"], "--json").json
    assert second["model"] == I2V.name
    kept = served.services.store.open(image_key(second["image"]["digest"]))
    last = decode(tmp_path / "v.mp4")[-1]
    assert (pixels(b"".join(kept)) == last).all()
    for options, hint in (
        (["--model", first["model"]], "cannot continue"),
        (["--image", "a.png"], "not both"),
    ):
        (tmp_path / "a.png").write_bytes(picture())
        done = farm("submit", "it lands", "--continue", first["id"], *options)
        assert (done.code, hint in done.err) == (2, True), done.err
    waiting = farm("submit", "a boat").out.strip()
    early = farm("submit", "it lands", "--continue", waiting)
    assert (early.code, f"farm watch {waiting}" in early.err) == (1, True)


def test_a_distilled_model_may_go_without_fresh_noise(farm: Command) -> None:
    assert farm("submit", "a kite", "--ode", "--json").json["ode"]
    assert not farm("submit", "a kite", "--json").json["ode"]
