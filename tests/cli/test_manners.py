"""What scripts and consoles may rely on: exit codes, JSON, clean pipes, every prompt in every encoding."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from farm.domain.states import JobState
from tests.cli.command import ROOT, Command
from tests.cli.test_watch import waiting
from tests.served.farm import Served
from tests.served.machine import Machine, until

__all__ = ["waiting"]


@pytest.fixture
def jobs(farm: Command, machine: Machine) -> dict[str, str]:
    """One job of each end, and one that waits."""
    made: dict[str, str] = {}
    for end in ("succeeded", "failed", "cancelled", "queued"):
        made[end] = farm("submit", f"a kite that is {end}").out.strip()
        if end == "cancelled":
            farm("cancel", made[end])
        elif end != "queued":
            machine.take()
            machine.finish() if end == "succeeded" else machine.fail()
    return made


def test_the_table_of_exit_codes(farm: Command, jobs: dict[str, str], tmp_path: Path) -> None:
    """0 succeeded, 1 failed, 2 usage, 3 cancelled, 5 unreachable; 4, not signed in, needs a farm with accounts."""
    (tmp_path / "text.mp4").write_text("no video")
    table = [
        (0, ("watch", jobs["succeeded"])), (0, ("list",)), (0, ("show", jobs["failed"])), (0, ("--version",)),
        (0, ("submit", "a kite")), (0, ("download", jobs["succeeded"])),
        (1, ("watch", jobs["failed"])), (1, ("download", jobs["failed"])), (1, ("show", "job_nosuch")),
        (1, ("retry", jobs["succeeded"])), (1, ("hold", jobs["succeeded"])), (1, ("priority", jobs["failed"], "3")),
        (2, ("submit", "")), (2, ("submit", "a", "--steps", "many")), (2, ("sumbit",)), (2, ("list", "--nosuch")),
        (2, ("priority", jobs["queued"], "high")), (2, ("inspect", "text.mp4")), (2, ("completion", "csh")),
        (3, ("watch", jobs["cancelled"])),
    ]  # fmt: skip
    found = [(farm(*arguments).code, arguments) for _, arguments in table]
    assert found == table
    assert Command("http://127.0.0.1:1", tmp_path)("list").code == 5
    assert Command("http://127.0.0.1:1", tmp_path)("submit", "a kite", "--wait").code == 5


def test_every_json_parses_and_lists_are_lines(farm: Command, jobs: dict[str, str], tmp_path: Path) -> None:
    done = jobs["succeeded"]
    (tmp_path / "night.txt").write_text("a kite\na boat\n")
    one = [
        ("submit", "一只风筝", "--json"), ("watch", done, "--json"), ("show", done, "--json"),
        ("why", done, "--json"),
        ("download", done, "--json"), ("inspect", done, "--json"), ("inspect", f"{done}.mp4", "--json"),
        ("hold", jobs["queued"], "--json"), ("release", jobs["queued"], "--json"),
        ("priority", jobs["queued"], "-5", "--json"), ("rerun", done, "--json"),
        ("retry", jobs["failed"], "--json"),
        ("cancel", jobs["queued"], "--json"), ("status", "--json"), ("top", "--json"),
        ("batch", "submit", "night.txt", "--json"), ("batch", "status", "night", "--json"),
    ]  # fmt: skip
    for arguments in one:
        done_ = farm(*arguments)
        assert done_.code == 0, (arguments, done_.err)
        assert isinstance(done_.json, dict), arguments
    for arguments in (("list", "--json"), ("workers", "--json"), ("submit", "a", "--count", "2", "--json")):
        lines = farm(*arguments).lines
        assert lines, arguments
        assert all(isinstance(line, dict) for line in lines)


def test_pipes_get_no_colours_and_no_progress_on_stdout(farm: Command, jobs: dict[str, str]) -> None:
    for arguments in (("list",), ("show", jobs["failed"]), ("top",), ("workers",), ("watch", jobs["succeeded"])):
        done = farm(*arguments)
        assert "\x1b" not in done.out + done.err, arguments
        assert "\r" not in done.out + done.err, arguments


def on_a_terminal(farm: Command, *arguments: str, **environment: str) -> str:
    """What a person sees."""
    ours, theirs = pty.openpty()
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "FARM_URL": farm.url,
        "TERM": "xterm-256color",
        **environment,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "farm.cli.main", *arguments],
        stdout=theirs,
        stderr=theirs,
        env=variables,
        cwd=farm.cwd,
    )
    os.close(theirs)
    seen = b""
    while select.select([ours], [], [], 30)[0]:
        try:
            part = os.read(ours, 4096)
        except OSError:  # its end, on Linux
            break
        if not part:
            break
        seen += part
    process.wait(30)
    os.close(ours)
    return seen.decode()


def test_a_terminal_gets_colours_unless_it_wants_none(farm: Command, jobs: dict[str, str]) -> None:
    assert "\x1b[32msucceeded" in on_a_terminal(farm, "list")
    assert "\x1b" not in on_a_terminal(farm, "list", NO_COLOR="1")
    assert "\x1b" not in on_a_terminal(farm, "show", jobs["failed"], TERM="dumb")


def test_a_reader_that_leaves_is_no_error(farm: Command) -> None:
    for _ in range(3):
        farm("submit", "a kite")
    process = farm.start("list")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    assert process.wait(30) == 0


PROMPT = "一只红色的风筝，飞过沙丘"


@pytest.mark.parametrize("locale", [{}, {"PYTHONUTF8": "0", "LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}])
def test_chinese_comes_back_whatever_the_locale_says(farm: Command, locale: dict[str, str]) -> None:
    console = Command(farm.url, farm.cwd, locale)
    made = console("submit", f"{PROMPT} 🪁", "--json")
    assert made.json["prompt"] == f"{PROMPT} 🪁"
    assert console("submit", "-", "--json", stdin=PROMPT.encode()).json["prompt"] == PROMPT
    assert PROMPT in console("list").out
    assert f"{PROMPT} 🪁" in console("show", made.json["id"]).out
    assert "找不到" in console("submit", "a", "--model", "找不到").err


@pytest.mark.parametrize("encoding", ["cp936", "gbk", "cp936:strict"])
def test_chinese_comes_back_on_a_console_of_code_page_936(farm: Command, encoding: str) -> None:
    def said(*arguments: str, stdin: bytes = b"") -> tuple[str, str]:
        process = Command(farm.url, farm.cwd, {"PYTHONIOENCODING": encoding}).start(*arguments)
        out, err = process.communicate(stdin, timeout=60)
        return out.decode("cp936"), err.decode("cp936")

    job = said("submit", "-", stdin=f"{PROMPT}\r\n".encode("cp936"))[0].strip()
    assert farm("show", job, "--json").json["prompt"] == PROMPT
    assert PROMPT in said("show", job)[0]
    assert PROMPT in said("list")[0]
    assert "找不到" in said("submit", "a", "--model", "找不到")[1]
    kite = farm("submit", f"{PROMPT} 🪁").out.strip()
    assert f"{PROMPT} ?" in said("show", kite)[0], "what it has no letter for is a question mark"
    assert json.loads(said("show", kite, "--json")[0])["prompt"] == f"{PROMPT} 🪁", "and in JSON an escape"


def test_a_prompt_piped_in_by_chinese_windows_is_understood(farm: Command) -> None:
    assert farm("submit", "-", "--json", stdin=PROMPT.encode("gb18030")).json["prompt"] == PROMPT
    refused = farm("submit", "-", stdin=b"\xff\xff\xff")
    assert (refused.code, "not UTF-8" in refused.err) == (2, True)


def test_lines_of_windows_files_are_read_as_lines(farm: Command, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("\ufeff一只风筝\r\n".encode())
    assert farm("submit", "--file", "p.txt", "--json").json["prompt"] == "一只风筝"
    assert farm("submit", "-", "--json", stdin="一条船\r\n".encode()).json["prompt"] == "一条船"


def test_a_second_ctrl_c_is_not_needed(
    waiting: "subprocess.Popen[bytes]", machine: Machine, served: Served
) -> None:
    """The job runs on, stdout holds nothing half, and the way back is told."""
    claim = machine.take()
    assert waiting.stderr is not None
    while b"loading" not in (line := waiting.stderr.readline()) and b"running" not in line:
        assert line
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=30)
    assert (waiting.returncode, out) == (130, b"")
    assert f"farm watch {claim.job}" in err.decode()
    assert b"Traceback" not in err
    from farm.db import jobs as rows

    assert rows.get(served.services.db, claim.job).state is JobState.RUNNING


def test_top_is_one_picture_on_a_pipe(farm: Command, machine: Machine) -> None:
    farm("submit", "a kite")
    farm("submit", "a boat")
    machine.take()
    machine.step(3)
    until(lambda: "denoise 3/" in farm("top").out)
    shown = farm("top").out
    assert "a kite" in shown
    assert "next\njob_" in shown
    assert "a boat" in shown.splitlines()[-1]


def test_open_says_the_address_and_opens_it(farm: Command, tmp_path: Path) -> None:
    job = farm("submit", "a kite").out.strip()
    note = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {note}\n')
    browser.chmod(0o755)
    person = Command(farm.url, tmp_path, {"BROWSER": f"{browser} %s"})
    assert person("open", job[:10]).out.strip() == f"{farm.url}/jobs/{job}"
    assert until(lambda: note.exists() and note.read_text().strip()) == f"{farm.url}/jobs/{job}"
    assert farm("open", "--print").out.strip() == f"{farm.url}/"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands(farm: Command, shell: str) -> None:
    script = farm("completion", shell).out
    assert "_FARM_COMPLETE" in script
    asking = {
        "_FARM_COMPLETE": f"{shell}_complete", "COMP_WORDS": "farm down" if shell != "fish" else "farm",
        "COMP_CWORD": "1" if shell != "fish" else "down",
    }  # fmt: skip
    done = Command(farm.url, farm.cwd, asking)()
    assert "download" in done.out


def test_the_bash_script_is_one_that_bash_takes(farm: Command) -> None:
    script = farm("completion", "bash").out
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
