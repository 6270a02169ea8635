"""`farm inspect`: the truth about a file or a job's video, and an exit code for scripts."""

import shutil
from pathlib import Path

from tests.cli.command import Command
from tests.served.machine import Machine


def saved(farm: Command, machine: Machine, prompt: str = "一只红色的风筝") -> str:
    job = farm("submit", prompt, "--seed", "7").out.strip()
    machine.take()
    machine.finish()
    assert farm("download", job, "-o", "v.mp4").code == 0
    return job


def test_a_file_tells_how_it_was_made_and_that_it_has_no_sound(farm: Command, machine: Machine) -> None:
    job = saved(farm, machine)
    told = farm("inspect", "v.mp4", "--json").json
    assert (told["job"], told["settings"]["prompt"], told["settings"]["seed"]) == (job, "一只红色的风筝", 7)
    assert (told["sound"], told["faststart"], told["problems"], told["sidecar"]) == (False, True, [], None)
    shown = farm("inspect", "v.mp4").out
    assert "prompt    一只红色的风筝" in shown
    assert "none, by design" in shown
    assert "label     AIGC 1, turbofarm" in shown
    asked = farm("inspect", job, "--json").json
    assert (asked["settings"], asked["sha256"]) == (told["settings"], told["sha256"])


def test_a_checksum_beside_the_file_is_verified(farm: Command, machine: Machine, tmp_path: Path) -> None:
    saved(farm, machine)
    sha256 = farm("inspect", "v.mp4", "--json").json["sha256"]
    sidecar = tmp_path / "v.mp4.sha256"
    sidecar.write_text(f"{sha256}  v.mp4\n")
    assert farm("inspect", "v.mp4", "--json").json["sidecar"] == "matches"
    sidecar.write_text(f"{'0' * 64}  v.mp4\n")
    done = farm("inspect", "v.mp4")
    assert (done.code, "changed or damaged" in done.err) == (1, True)


def test_a_file_that_is_cut_short_or_foreign_is_named_so(farm: Command, machine: Machine, tmp_path: Path) -> None:
    saved(farm, machine)
    data = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[:-100])
    done = farm("inspect", "cut.mp4")
    assert (done.code, "100 bytes are missing" in done.err) == (1, True)
    (tmp_path / "text.mp4").write_text("hello")
    done = farm("inspect", "text.mp4")
    assert (done.code, "error invalid_video" in done.err) == (2, True)
    done = farm("inspect", "nowhere.mp4")
    assert (done.code, "check the path" in done.err) == (2, True)
    assert farm("inspect", "job_nosuch").code == 1


def test_it_needs_no_farm_for_a_file(farm: Command, machine: Machine, tmp_path: Path) -> None:
    saved(farm, machine)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(tmp_path / "v.mp4", alone)
    assert Command("http://127.0.0.1:1", alone)("inspect", "v.mp4").code == 0
