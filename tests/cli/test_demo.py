"""The demo's own rules, without a cluster: it claims only what it read, and draws within the terminal."""

import io
import re

import pytest
from PIL import Image

from farm.cli import demo, demo_screen
from farm.cli.client import Client
from farm.domain.request import Models, new_job
from model.wan.config import PRESETS
from tests.cli.command import Command
from tests.served.farm import Served
from tests.served.machine import Machine


def attempt(outcome: str) -> dict:
    return {"outcome": outcome, "timings": {"denoise": 2.0}}


def job(*outcomes: str, state: str = "succeeded") -> dict:
    return {"state": state, "attempts": [attempt(o) for o in outcomes], "error": None}


def test_the_demo_fails_unless_the_killed_job_was_lost_and_then_succeeded() -> None:
    good = [job("succeeded"), job("lost", "succeeded"), job("succeeded")]
    demo._check(good, 1)
    for second in (job("succeeded"), job("device_fault", "succeeded"), job("lost", "lost", state="failed")):
        with pytest.raises(demo.DemoFailed):
            demo._check([good[0], second, good[2]], 1)


def test_only_a_job_in_mid_render_is_killed() -> None:
    def at(stage: str, k: int, state: str = "running") -> dict:
        return {"state": state, "progress": {"stage": stage, "k": k, "n": 16}}

    assert demo._in_mid_render(at("denoise", 3))
    assert demo._in_mid_render(at("decode", 0))
    for other in (at("denoise", 0), at("upload", 0), at("loading", 0), at("denoise", 3, "queued")):
        assert not demo._in_mid_render(other)


def test_the_demos_prompts_are_accepted() -> None:
    models = Models({"demo-t2v": PRESETS["demo-t2v"]}, "demo-t2v", lambda _: "")
    for prompt in (*demo.PROMPTS, demo.HELD_PROMPT):
        new_job({"prompt": prompt}, models)


def test_half_blocks_carry_two_rows_of_pixels_in_true_colour() -> None:
    picture = Image.new("RGB", (24, 24), (10, 20, 30))
    picture.putpixel((0, 1), (200, 100, 50))
    data = io.BytesIO()
    picture.save(data, "PNG")
    lines = demo_screen.half_blocks(data.getvalue())
    assert len(lines) == 12
    assert lines[0].startswith("\x1b[38;2;10;20;30;48;2;200;100;50m▀")


def test_the_screen_redraws_in_place_and_shows_the_preview(
    served: Served,
    farm: Command,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(demo_screen, "colour", lambda _: True)
    monkeypatch.setattr(demo_screen.shutil, "get_terminal_size", lambda: __import__("os").terminal_size((80, 24)))
    client = Client(served.url)
    screen = demo_screen.Screen(client)
    farm("submit", "一只红色的风筝" * 5)
    screen.draw(list(client.jobs()))
    machine.take()
    machine.step(5)
    screen.draw(list(client.jobs()))
    machine.step(9)
    for _ in range(2):  # the second time nothing has changed
        screen.draw(list(client.jobs()))
    out = capsys.readouterr().out
    assert "denoise 9/16" in out
    assert "▀" in out
    # First one bar and a blank line, then twelve lines of picture as well: each drawing replaces the last.
    assert re.findall(r"\x1b\[(\d+)F", out) == ["2", "14"]
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", out)
    from farm.cli.output import width

    assert max(width(line) for line in plain.splitlines()) <= 80


def test_on_a_pipe_every_job_is_introduced_by_its_prompt_once(
    served: Served, farm: Command, machine: Machine, capsys: pytest.CaptureFixture
) -> None:
    client = Client(served.url)
    screen = demo_screen.Screen(client)
    farm("submit", "一个蓝色的星形")
    screen.draw(list(client.jobs()))
    machine.take()
    machine.step(5)
    screen.draw(list(client.jobs()))
    assert capsys.readouterr().out == "job 1  queued: 一个蓝色的星形\njob 1  denoise 5/16\n"
