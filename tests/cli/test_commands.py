"""What the commands print, where, and with which exit code."""

import re
from pathlib import Path

import pytest

from tests.cli.command import Command
from tests.served.farm import Served
from tests.served.machine import Machine


def test_submit_prints_only_the_id_and_the_job_is_durable(farm: Command, served: Served) -> None:
    done = farm("submit", "一个大的红色圆形", "--seed", "7", "--steps", "3")
    assert (done.code, done.err) == (0, "seed 7\n")
    job = farm("show", done.out.strip(), "--json").json
    assert (job["prompt"], job["seed"], job["steps"], job["state"]) == ("一个大的红色圆形", 7, 3, "queued")


def test_a_prompt_comes_from_an_argument_a_file_or_stdin(farm: Command, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("\ufeff一只风筝\n".encode())
    given = [
        farm("submit", "a kite", "--json").json,
        farm("submit", "--file", "p.txt", "--json").json,
        farm("submit", "-", "--json", stdin="一条船\n".encode()).json,
    ]
    assert [job["prompt"] for job in given] == ["a kite", "一只风筝", "一条船"]


def test_count_makes_consecutive_seeds(farm: Command) -> None:
    jobs = farm("submit", "a kite", "--count", "3", "--seed", "41", "--json").lines
    assert [job["seed"] for job in jobs] == [41, 42, 43]
    first, second = farm("submit", "a kite", "--count", "2", "--json").lines
    assert second["seed"] == (first["seed"] + 1) % 2**32


def test_an_idempotency_key_submits_once(farm: Command) -> None:
    first, again = (farm("submit", "a kite", "--idempotency-key", "k1") for _ in range(2))
    assert first.out == again.out
    other = farm("submit", "a boat", "--idempotency-key", "k1")
    assert other.code == 2
    assert "idempotency_conflict" in other.err


BAD = [
    (["submit", ""], "invalid_prompt", "describe"),
    (["submit"], "invalid_request", "farm submit"),
    (["submit", "a" * 300], "invalid_prompt", "shorten"),
    (["submit", "a", "--size", "100x96"], "invalid_request", "192x192"),
    (["submit", "a", "--frames", "16"], "invalid_request", "33"),
    (["submit", "a", "--seconds", "60"], "invalid_request", "seconds 2"),
    (["submit", "a", "--steps", "99"], "invalid_request", "nearest is 4"),
    (["submit", "a", "--frames", "many"], "invalid_request", "leave it out"),
    (["submit", "a", "--seed", "x", "--count", "2"], "invalid_request", "leave it out"),
    (["submit", "a", "--model", "demo"], "unknown_model", "demo-t2v"),
    (["submit", "a", "--negative-prompt", "blur"], "invalid_request", "leave the negative prompt out"),
    (["submit", "--file", "nowhere.txt"], "invalid_request", "check the path"),
    (["submit", "a", "--count", "2", "-o", "x.mp4"], "invalid_request", "farm download"),
    (["list", "--state", "asleep"], "invalid_request", "no state is called 'asleep'"),
    (["batch", "submit", "nowhere.txt"], "invalid_request", "check the path"),
]


@pytest.mark.parametrize(("arguments", "code", "hint"), BAD)
def test_bad_input_exits_2_with_a_code_and_a_next_step_on_stderr(
    farm: Command, arguments: list[str], code: str, hint: str
) -> None:
    done = farm(*arguments)
    assert (done.code, done.out) == (2, "")
    assert f"error {code}: " in done.err
    assert hint in done.err
    assert farm("list", "--json").out == "[]\n"


def test_the_prompt_that_help_proposes_is_one_the_demo_model_knows(farm: Command) -> None:
    for said in (farm("--help").out, farm("submit").err, farm("list").err):
        (prompt,) = re.findall(r'farm submit "(.+?)"', said)
        assert farm("submit", prompt, "--hold", "--json").json["hint"] is None
        farm("cancel", *[job["id"] for job in farm("list", "--json").lines])


def test_an_unknown_option_or_command_exits_2(farm: Command) -> None:
    assert farm("submit", "a", "--colour", "red").code == 2
    assert farm("sumbit", "a").code == 2


def test_an_unknown_job_exits_1_and_names_the_next_step(farm: Command) -> None:
    for command in ("show", "watch", "cancel", "retry", "why", "download", "release"):
        done = farm(command, "job_nosuch")
        assert (done.code, done.out) == (1, ""), command
        assert "error job_not_found" in done.err
        assert "farm list" in done.err


def test_a_farm_that_does_not_answer_exits_5(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:1", "nonsense", "http://127.0.0.1:99999"):
        done = Command(url, tmp_path)("list")
        assert done.code == 5
        assert "error farm_unreachable" in done.err
        assert "FARM_URL" in done.err


def test_lists_are_ndjson_and_an_empty_one_is_an_empty_array(farm: Command) -> None:
    assert farm("list", "--json").out == "[]\n"
    farm("submit", "a kite")
    farm("submit", "a boat", "--hold")
    assert [job["prompt"] for job in farm("list", "--json").lines] == ["a boat", "a kite"]
    assert [job["prompt"] for job in farm("list", "--json", "--state", "held").lines] == ["a boat"]
    assert "no job matches" in farm("list", "--search", "a train").err
    shown = farm("list").out
    assert "\x1b" not in shown  # a pipe gets no colours
    assert "a boat" in shown


def test_hold_release_cancel_and_retry_say_what_they_did(farm: Command) -> None:
    job = farm("submit", "a kite", "--hold").out.strip()
    assert "farm release" in farm("why", job).out
    assert farm("release", job, "--json").json["state"] == "queued"
    assert farm("hold", job, "--json").json["state"] == "held"
    assert farm("cancel", job, "--json").json["state"] == "cancelled"
    assert farm("retry", job, "--json").json["state"] == "queued"
    refused = farm("release", job)
    assert (refused.code, "state_conflict" in refused.err) == (1, True)


def test_several_jobs_are_changed_even_if_one_of_them_cannot_be(farm: Command) -> None:
    first, second = (farm("submit", "a kite").out.strip() for _ in range(2))
    done = farm("cancel", first, "job_nosuch", second)
    assert done.code == 1
    assert done.out.split() == [first, second]
    assert done.err.count("error ") == done.err.count("error job_not_found") == 1


def test_a_batch_twice_adds_nothing_and_says_so(farm: Command, tmp_path: Path) -> None:
    (tmp_path / "night.txt").write_bytes("\ufeffa kite\r\n\r\n一条船\r\na kite\n".encode())
    first, again = farm("batch", "submit", "night.txt"), farm("batch", "submit", "night.txt")
    assert (first.code, again.code) == (0, 0)
    assert len(first.out.split()) == 3
    assert sorted(first.out.split()) == sorted(again.out.split())
    assert "3 jobs added to batch night" in first.err
    assert "nothing to add" in again.err
    assert len(farm("list", "--json").lines) == 3
    assert farm("batch", "status", "night", "--json").json["counts"]["queued"] == 3


def test_a_bad_line_of_a_batch_is_named_by_its_line_and_nothing_is_added(farm: Command, tmp_path: Path) -> None:
    (tmp_path / "night.txt").write_text("a kite\n\n" + "x" * 300 + "\n", encoding="utf-8")
    done = farm("batch", "submit", "night.txt")
    assert done.code == 2
    assert "line 3: the prompt has 300 characters" in done.err
    assert farm("list", "--json").out == "[]\n"
    (tmp_path / "gbk.txt").write_bytes("风筝".encode("gbk"))
    assert "not UTF-8 (line 1)" in farm("batch", "submit", "gbk.txt").err


def test_download_saves_the_whole_file_or_none(farm: Command, machine: Machine, tmp_path: Path) -> None:
    job = farm("submit", "a kite").out.strip()
    early = farm("download", job, "-o", "early.mp4")
    assert (early.code, "not_ready" in early.err) == (1, True)
    machine.take()
    made = machine.finish()
    assert farm("download", job).out.strip() == f"{job}.mp4"
    assert (tmp_path / f"{job}.mp4").stat().st_size == made.bytes
    nowhere = farm("download", job, "-o", "no/such/folder/x.mp4")
    assert (nowhere.code, "folder_unusable" in nowhere.err) == (1, True)
    assert sorted(p.name for p in tmp_path.glob("*mp4*")) == [f"{job}.mp4"]


def test_status_tells_workers_and_counts_and_exits_by_readiness(farm: Command, machine: Machine) -> None:
    farm("submit", "a kite")
    done = farm("status", "--json")
    assert done.code == 0
    assert (done.json["jobs"]["queued"], done.json["workers"][0]["id"]) == (1, "w1")
    assert "1 queued" in farm("status").out


def test_show_lists_every_attempt_with_its_seconds(farm: Command, machine: Machine) -> None:
    job = farm("submit", "a kite").out.strip()
    machine.take()
    machine.die()
    second = Machine(machine.db, machine.store, "w2")
    second.take()
    second.finish()
    shown = farm("show", job[:12]).out
    assert "lost" in shown
    assert "denoise 2.12" in shown or "denoise 2.13" in shown


@pytest.mark.parametrize(
    ("option", "value", "hint"), [("--port", "99999", "65535"), ("--model", "demo-t2x", "did you mean demo-t2v?")]
)
def test_a_bad_option_of_the_server_is_refused_before_anything_starts(
    farm: Command, tmp_path: Path, option: str, value: str, hint: str
) -> None:
    done = farm("up", "--home", str(tmp_path / "home"), option, value)
    assert (done.code, hint in done.err) == (2, True)
    assert not (tmp_path / "home").exists()


def test_migrate_makes_the_schema_and_may_be_repeated(farm: Command, tmp_path: Path) -> None:
    first, again = (farm("migrate", "--home", str(tmp_path / "home")) for _ in range(2))
    assert (first.code, again.code) == (0, 0)
    assert first.out == again.out != ""


def test_submit_after_another_job_on_a_kind_of_worker(farm: Command) -> None:
    first, other = (farm("submit", "a kite").out.strip() for _ in range(2))
    wish = ["submit", "a boat", "--after", first, "--after-any", other, "--on", "a100", "--pool", "film"]
    second = farm(*wish, "--memory", "40GiB").out.strip()
    shown = farm("show", second).out
    assert f"after     success of {first} (queued)" in shown
    assert f"after     the end of {other} (queued)" in shown
    assert "requires  a100, pool film, 40 GiB of device memory" in shown
    assert farm("show", second, "--json").json["state"] == "scheduled"
    refused = farm("submit", "a boat", "--after", "job_aaaaaaaaaaaa")
    assert refused.code == 2
    assert "there is no job" in refused.err
