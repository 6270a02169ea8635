"""`farm models plan`: what fits where, without a farm, a GPU or torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from farm.models import fitting
from model import memory
from model.wan.config import PRESETS
from tests.cli.command import ROOT, Command, Done

GIB = 2**30


@pytest.fixture
def plan(tmp_path: Path):
    """farm models plan ..., of a library without models and a farm that nobody runs."""
    command = Command("http://127.0.0.1:1", tmp_path, {"FARM_HOME": str(tmp_path / "home")})

    def ask(*arguments: str, **environment: str) -> Done:
        return Command(command.url, tmp_path, {**command.environment, **environment})("models", "plan", *arguments)

    return ask


def test_each_card_gets_the_plan_that_keeps_most_on_it(plan) -> None:
    cards = [word for gb in ("80", "48", "24") for word in ("--gpu-memory", gb)]
    told = plan("wan2.2-i2v-a14b", *cards, "--json")
    assert told.code == 0, told.err
    said = told.json
    assert [card["plan"] for card in said["cards"]] == ["all-on-card", "text-on-host", None]
    assert [card["smaller_size"] for card in said["cards"]] == [None, None, None]
    whole, lean = said["plans"]
    assert whole["resident"] == sum(said["weights"].values())
    assert (whole["streamed"], lean["streamed"]) == ([], ["text_encoder"])
    assert whole["peak"] > lean["peak"] > lean["resident"] > 26 * GIB
    assert said["linears_8bit"]
    whole, lean = plan("wan2.2-i2v-a14b", "--json", TURBOFARM_LINEARS="bf16").json["plans"]
    assert whole["peak"] > lean["peak"] > lean["resident"] > 50 * GIB
    assert (said["counted_in"], said["size"], said["frames"]) == ("shapes", "1280x720", 81)


def test_where_nothing_fits_it_says_what_would(plan) -> None:
    told = plan("wan2.1-t2v-14b", "--gpu-memory", "30")
    assert told.code == 1
    assert "nothing fits: it takes a card with 31.4 GB free, or --size 1216x688" in told.out
    preset = PRESETS["wan2.1-t2v-14b"]
    parts, card = memory.parts_of_shapes(preset), fitting.Card("30 GB", 30 * GIB)
    assert fitting.fit(preset, parts, (1216, 688), card).cost is not None
    assert fitting.fit(preset, parts, (1232, 704), card).cost is None
    # Two experts, the second of them in bfloat16 when it comes: no smaller video helps.
    told = plan("wan2.2-i2v-a14b", "--gpu-memory", "40")
    assert (told.code, "it takes a card with 45.3 GB free\n" in told.out) == (1, True), told.out


def test_the_gpus_of_the_machine_are_asked_and_what_uses_them_now_counts(plan, tmp_path: Path) -> None:
    use = tmp_path / "use.json"
    use.write_text(json.dumps({"GPU-b": {"used": 60 * GIB}, "GPU-c": {"used": 79 * GIB}}))
    fake = {"FARM_NVML": "tests.cluster.fake_nvml", "FAKE_GPUS": "GPU-a,GPU-b,GPU-c", "FAKE_GPU_USE": str(use)}
    cards = plan("wan2.1-t2v-1.3b", "--json", **fake).json["cards"]
    assert [(card["plan"], card["plan_now"]) for card in cards] == [
        ("all-on-card", "all-on-card"), ("all-on-card", "text-on-host"), ("all-on-card", None),
    ]  # fmt: skip
    use.write_text(json.dumps({"GPU-b": {"used": 79 * GIB}}))
    assert "now only 1.0 GB are free: " in plan("demo-t2v", **fake).out


def test_a_model_that_is_here_is_counted_in_its_files_and_without_torch(plan, tmp_path: Path) -> None:
    told = plan("demo-t2v", "--gpu-memory", "4")
    assert (told.code, "8-bit codes on disk" in told.out, told.err) == (0, True, "")
    assert plan("demo-t2v").err == "no GPU here: ask about one with --gpu-memory 24\n"
    code = (
        "import sys; sys.argv = ['farm', 'models', 'plan', 'demo-i2v', '--json']\n"
        "import farm.cli.main as m; m.main()\n"
        "print([name for name in ('torch', 'ray', 'sqlalchemy') if name in sys.modules], file=sys.stderr)"
    )
    environment = {**os.environ, "FARM_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert json.loads(done.stdout)["counted_in"] == "files"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nope",), "there is no model called"),
        (("demo-t2v", "--size", "100x100"), "192x192"),
        (("wan2.1-t2v-14b", "--frames", "82"), "the nearest is 81"),
        (("demo-t2v", "--gpu-memory", "0"), "--gpu-memory"),
    ],
)
def test_a_mistake_is_answered_in_words(plan, arguments: tuple[str, ...], words: str) -> None:
    done = plan(*arguments)
    assert (done.code, words in done.err) == (2, True), done.err


def test_a_wrong_way_to_keep_linear_layers_is_answered_in_words(plan) -> None:
    done = plan("demo-t2v", TURBOFARM_LINEARS="fp16")
    assert (done.code, "say bf16, fp8 or int8" in done.err) == (2, True), done.err
    assert "Traceback" not in done.err
