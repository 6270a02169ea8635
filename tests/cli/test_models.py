"""`farm models` as a person uses it: real import and render of a small model, a hub on a loopback port."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from farm.cli import models as commands
from farm.cli.client import Client
from farm.cli.transfer import Transfer, duration, size
from farm.domain.errors import FarmError, FarmUnreachable
from farm.models import registry as registry_room
from farm.models.lock import library_lock
from model.library import Library
from model.wan.config import PRESETS
from tests.cli.command import Command
from tests.library import I2V, write_library
from tests.model.small import BASE, save_base
from tests.models.hub_server import FakeHub, serving
from tests.models.test_bring_in import TOML

Farm = Callable[..., Result]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("published"))


@pytest.fixture
def hub(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("time.sleep", lambda _: None)
    files = {p.relative_to(published).as_posix(): p.read_bytes() for p in published.rglob("*") if p.is_file()}
    with serving() as hub:
        hub.add("wan/small", files, small={name for name in files if name.endswith(".json")})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Farm:
    """`farm models ...` in this process, where a small model is one of the presets."""
    monkeypatch.setitem(PRESETS, BASE.name, BASE)
    monkeypatch.setattr(registry_room, "registry", lambda: registry_room.read(TOML))
    monkeypatch.setenv("FARM_HOME", str(home))
    monkeypatch.setenv("FARM_URL", "http://127.0.0.1:9")

    def run(*arguments: object, stdin: str | None = None) -> Result:
        return CliRunner().invoke(commands.models, [str(a) for a in arguments], input=stdin)

    return run


def refused(result: Result) -> FarmError:
    assert isinstance(result.exception, FarmError), result.output
    return result.exception


def test_pull_fetches_imports_and_the_model_renders(run: Farm, hub: FakeHub, home: Path) -> None:
    planned = run("pull", BASE.name, "--dry-run")
    assert planned.exit_code == 0
    assert "small-vae: " in planned.stderr
    assert "from huggingface:wan/small@c0ffee" in planned.stderr
    assert Library(home / "models").components() == {}

    hub.cuts = [500]
    done = run("pull", BASE.name)
    assert done.exit_code == 0, (done.output, done.exception)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["small-vae", "small-umt5", BASE.name]
    assert "importing small-vae" in done.stderr
    assert "nothing to fetch" in run("pull", BASE.name).stderr

    rows = {row["name"]: row for row in map(json.loads, run("list", "--json").stdout.splitlines())}
    assert (rows[BASE.name]["state"], rows[BASE.name]["licence"], rows[BASE.name]["workers"]) == (
        "yes",
        "MIT",
        None,
    )
    assert rows[BASE.name]["source"].startswith("huggingface:wan/small@c0ffee")
    assert rows["demo-t2v"]["state"] == "packaged"

    checked = run("verify", BASE.name, "--render", "--device", "cpu", "--json")
    assert checked.exit_code == 0, (checked.output, checked.exception)
    said = json.loads(checked.stdout)
    assert re.fullmatch("[0-9a-f]{64}", said["render"]["frames_sha256"])
    assert {"load", "text", "image", "denoise", "decode"} <= set(said["render"]["seconds"])
    assert said["digest"] == rows[BASE.name]["digest"]


def test_ctrl_c_says_that_the_same_command_goes_on(
    run: Farm, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Transfer, what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Transfer, "say", stop)
        stopped = run("pull", BASE.name)
    assert stopped.exit_code == 130
    assert "run the same command again to go on" in stopped.stderr
    assert "partly" in run("list").stdout
    assert run("pull", BASE.name).exit_code == 0


def test_import_takes_a_folder_as_published_and_leaves_it_alone(run: Farm, home: Path, published: Path) -> None:
    before = sorted(p.name for p in published.rglob("*"))
    done = run("import", BASE.name, published, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    assert [json.loads(line)["name"] for line in done.stdout.splitlines()] == ["small-vae", "small-umt5", BASE.name]
    assert sorted(p.name for p in published.rglob("*")) == before
    assert Library(home / "models").missing(BASE) == []


def test_a_models_own_variant_is_imported_under_its_own_name(run: Farm, home: Path, published: Path) -> None:
    run("import", BASE.name, published)
    low, high = published / "low_noise_model", published / "high_noise_model"
    done = run("import", "my-tune", "--like", BASE.name, "--transformer", low, "--low", high)
    assert done.exit_code == 0, (done.output, done.exception)
    library = Library(home / "models")
    mine = library.find("my-tune")
    assert (mine.task, mine.boundary) == ("i2v", 0.9)
    assert library.digest(mine) != library.digest(BASE)
    taken = refused(run("import", "wan2.1-t2v-14b", "--like", BASE.name, "--transformer", low, "--low", high))
    assert "cannot be the name" in taken.message


def test_an_import_of_parts_says_what_is_still_missing(run: Farm, published: Path) -> None:
    done = run(
        "import", BASE.name, "--transformer", published / "high_noise_model", "--low", published / "low_noise_model"
    )
    assert done.exit_code == 0, (done.output, done.exception)
    assert "small-vae is still missing: farm models pull" in done.stderr
    assert (
        "one checkpoint for each"
        in refused(run("import", BASE.name, "--transformer", published / "high_noise_model")).next
    )


def test_a_damaged_file_fails_the_verification(run: Farm, home: Path, published: Path) -> None:
    run("import", BASE.name, published)
    path = next((home / "models" / "small-vae").glob("*.safetensors"))
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    damaged = run("verify", BASE.name)
    assert refused(damaged).exit == 1
    assert f"damaged: small-vae/{path.name}" in damaged.stderr


def test_removing_asks_and_keeps_what_others_need(run: Farm, home: Path) -> None:
    write_library(home / "models")
    assert "needs a yes" in refused(run("remove", I2V.name)).message
    done = run("remove", I2V.name, "--yes", "--json")
    assert json.loads(done.stdout)["removed"] == [I2V.name, "wan2.1-vae", "umt5-xxl"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pull", "wan3"), "no model called 'wan3'"),
        (("pull", BASE.name, "--from", "/nowhere"), "neither a hub nor a folder"),
        (("pull", BASE.name, "--from", "modelscope"), "not published on modelscope"),
        (("verify", "wan3"), "no model called"),
        (("verify", BASE.name), "is not on this machine"),
        (("import", BASE.name), "nothing to import"),
        (("remove", "wan3", "--yes"), "not in the model library"),
    ],
)
def test_a_mistake_is_answered_in_words(run: Farm, arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(run(*arguments)).message


def test_a_second_one_is_refused_while_the_first_is_at_work(run: Farm, hub: FakeHub, home: Path) -> None:
    with library_lock(home / "models", "pull other"):
        assert "farm models pull other (pid" in refused(run("pull", BASE.name)).message


def test_the_list_says_how_many_workers_have_a_model(run: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [
        {"id": "demo-t2v", "workers": 2, "task": "t2v", "digest": "d"},
        {"id": "far-away", "workers": 1, "task": "i2v", "digest": "e"},
    ]
    monkeypatch.setattr(Client, "get", lambda self, path: {"data": models})
    rows = {row["name"]: row for row in map(json.loads, run("list", "--json").stdout.splitlines())}
    assert (rows["demo-t2v"]["workers"], rows["far-away"]["workers"], rows["far-away"]["installed"]) == (
        2,
        1,
        False,
    )

    def nobody(self: Client, path: str) -> None:
        raise FarmUnreachable("nobody")

    monkeypatch.setattr(Client, "get", nobody)
    assert "far-away" not in run("list").stdout


def test_the_real_command_lists_and_verifies_what_comes_with_it(farm: Command, tmp_path: Path) -> None:
    farm.environment["FARM_HOME"] = str(tmp_path / "home")
    rows = {row["name"]: row for row in farm("models", "list", "--json").lines}
    assert set(PRESETS) <= set(rows)
    assert rows["wan2.1-t2v-1.3b"]["to_fetch"] > 10**10
    checked = farm("models", "verify", "demo-t2v", "--render", "--device", "cpu")
    assert checked.code == 0, checked.err
    assert "the video is whole" in checked.out
    assert not (tmp_path / "home").exists(), "looking makes no folders"


def test_progress_says_speed_and_time_left_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    clock = iter(range(100))
    monkeypatch.setattr("farm.cli.transfer.output.note_inline", lines.append)
    monkeypatch.setattr("farm.cli.transfer.output.note", lines.append)
    monkeypatch.setattr("farm.cli.transfer.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Transfer() as transfer:
        for done in range(4):
            transfer.say("a.pth", done * 2 * 10**9, 300 * 10**9)
        transfer.say("a.pth", 300 * 10**9, 300 * 10**9)
    assert "a.pth  6 GB of 300 GB  2.00 GB/s  2 min 27 s left" in lines
    assert lines[-1] == "a.pth  300 GB"
    assert (duration(3700), duration(9), size(999), size(1_234_000)) == ("1 h 01 min", "9 s", "999 B", "1.23 MB")
