"""FARM_LANG=zh: what people read is Chinese, what scripts read stays, and no new sentence is forgotten."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.cli.chinese import PHRASES, translate
from farm.ops.checks import machine
from tests.cli.command import ROOT, Command

# Whose sentences artists and operators meet at the command line.
ROOMS = (
    *(f"farm/domain/{name}.py" for name in (
        "request", "shape", "sampling", "prompt", "placing", "fields", "prune",
    )),
    *(f"farm/cli/{name}.py" for name in (
        "client", "submit", "download", "inspect", "jobs", "watch", "moments", "filenames", "images", "top",
        "completion", "prune", "plan", "bench",
    )),
    *(f"farm/db/{name}.py" for name in ("jobs", "waiting", "submission")),
    *(f"farm/api/{name}.py" for name in (
        "jobs", "content", "variants", "continuing", "inspect", "body", "images", "prune",
    )),
    *(f"farm/scheduling/{name}.py" for name in ("why", "obstacles", "lanes")),
    *(f"farm/media/{name}.py" for name in ("mp4", "image")),
    *(f"farm/ops/checks/{name}.py" for name in ("gpu", "machine", "models", "running", "services", "toolchain")),
)  # fmt: skip
SPEAKERS = {"note", "_refused", "failed", "warning", "ok", "Reason", "missing"}
NO_SENTENCES = {"Path", "Field", "Choice", "IntRange", "FloatRange", "ValueError"}
NAMES = {"open files", "gpu memory", "glibc {}"}  # of checks and things, and commands: the same in every language
VERBS = {"{} of its lane {} first, and {}.{}", "{} {} before all bulk jobs, and {}.{}"}  # go or goes: English alone
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def templates(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from templates(node.body)
        yield from templates(node.orelse)


def sentences(path: Path) -> Iterator[str]:
    """What is handed to an error, a reason, a finding or a note, a hole for each value."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name in SPEAKERS or name == "__init__" or (name[:1].isupper() and name not in NO_SENTENCES):
            for argument in node.args:
                yield from (text for text in templates(argument) if " " in text.strip())


@pytest.mark.parametrize("room", ROOMS)
def test_every_sentence_of_a_room_is_known(room: str) -> None:
    unknown = {text for text in sentences(ROOT / room) if not is_known(text)}
    assert unknown == set(), "add it to farm/cli/chinese"


def is_known(text: str) -> bool:
    if text in PHRASES or text in NAMES or text.startswith("pip ") or not re.sub(r"[{} \W]+", "", text):
        return True
    return bool(CHINESE.search(translate(text.replace("{}", "x"))))


def test_a_sentence_keeps_all_that_it_tells() -> None:
    for english, chinese in PHRASES.items():
        holes = english.count("{}")
        told = chinese.format(*(f"<{n}>" for n in range(holes)))
        kept = [n for n in range(holes) if f"<{n}>" in told]
        assert len(kept) == holes - (english in VERBS), english
        assert CHINESE.search(chinese) or not re.search(r"[a-z]{3} ", english), english


def test_sentences_within_sentences_are_translated_and_the_unknown_stays() -> None:
    assert translate("there is no job 'x'") == "没有任务 'x'"
    assert translate("never said before") == "never said before"
    said = translate("It is the next of its lane, but all 3 workers are busy. 2 attempts of it failed before.")
    assert said == "它是通道里的下一个，但3 个工作进程都在忙。之前失败过 2 次。"
    assert translate("100%{}") == "100%{}"
    assert translate("x" * 10_000) == "x" * 10_000


def test_errors_notes_and_reasons_are_chinese_and_codes_are_not(farm: Command) -> None:
    person = Command(farm.url, farm.cwd, {"FARM_LANG": "zh"})
    done = person("submit", "a kite", "--steps", "999")
    assert (done.code, done.out) == (2, "")
    assert "错误 invalid_request: demo-t2v 用 1 到" in done.err
    assert "最接近的是" in done.err
    job = person("submit", "a kite", "--seed", "7", "--hold")
    assert job.err.splitlines()[-1].startswith("种子 7，已暂停：farm release job_")
    assert "它被暂停了，不会自己开始。 放行：farm release" in person("why", job.out.strip()).out
    assert "没有任务" in person("show", "job_nosuch").err
    assert CHINESE.search(Command("http://127.0.0.1:1", farm.cwd, {"FARM_LANG": "zh_CN"})("list").err)
    english = farm("submit", "a kite", "--steps", "999").err
    assert not CHINESE.search(english)
    assert person("show", job.out.strip(), "--json").json == farm("show", job.out.strip(), "--json").json


def test_what_the_doctor_finds_is_chinese() -> None:
    port = machine.check_port(machine.Port("127.0.0.1", 7860, True, "nginx (pid 7)", False))
    assert translate(port.sentence) == "127.0.0.1 的端口 7860 被占用（占用者：nginx (pid 7)）"
    disk = machine.check_disk(machine.Disk(Path("/x"), 2**29, 2**40, None, True))
    assert (translate(disk.sentence), translate(disk.next)[:4]) == ("/x：剩 512 MiB，共 1024.0 GiB", "腾出空间")
