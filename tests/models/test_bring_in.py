"""From published files to a model that renders: the real import, verify with its render, and removal."""

import dataclasses
import json
from pathlib import Path

import pytest

from farm.domain.errors import InvalidRequest
from farm.models import pull as pulling
from farm.models import verify as verifying
from farm.models.bring_in import Files, bring_in, given_parts, sort_out
from farm.models.errors import ImportFailed, StillNeeded
from farm.models.hub import open_hub
from farm.models.on_disk import on_disk
from farm.models.register import register
from farm.models.registry import Part, Registry, read, registry
from farm.models.remove import plan_removal, remove
from farm.settings import load_settings
from model.library import Library
from model.pipeline import Pipeline
from model.wan.config import PRESETS
from tests.library import I2V, write_component, write_library
from tests.model.small import BASE, save_base

TOML = f"""
[parts."{BASE.name}"]
kind = "transformer"
licence = "MIT"
[[parts."{BASE.name}".sources]]
hubs = ["huggingface"]
repository = "wan/small"
about = 1
files = {{ high = ["high_noise_model/*"], low = ["low_noise_model/*"] }}
[parts."{BASE.vae_part}"]
kind = "vae"
licence = "MIT"
[[parts."{BASE.vae_part}".sources]]
hubs = ["huggingface"]
repository = "wan/small"
about = 1
files = {{ weights = ["Wan2.1_VAE.pth"] }}
[parts."{BASE.text_part}"]
kind = "text_encoder"
licence = "MIT"
[[parts."{BASE.text_part}".sources]]
hubs = ["huggingface"]
repository = "wan/small"
about = 1
files = {{ weights = ["models_t5_umt5-xxl-enc-bf16.pth"], tokenizer = ["google/umt5-xxl/*"] }}
"""


def quiet(what: str, done: int, total: int) -> None: ...


@pytest.fixture(scope="module")
def small() -> Registry:
    return read(TOML)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as Wan-AI publishes its large ones."""
    folder = tmp_path_factory.mktemp("published")
    save_base(folder)
    return folder


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory, published: Path, small: Registry) -> Library:
    library = Library(tmp_path_factory.mktemp("library"))
    hub = open_hub(str(published))
    pulling.pull(library, pulling.plan(library, small, BASE, hub), hub, quiet)
    return library


def test_a_folder_becomes_a_model_that_renders_a_whole_video(pulled: Library, tmp_path: Path) -> None:
    assert [preset.name for preset in pulled.installed()] == ["demo-t2v", "demo-i2v", BASE.name]
    assert verifying.rehash(pulled, BASE, quiet) == []
    first, again = (verifying.render(Pipeline, pulled, BASE, "cpu", tmp_path / "v.mp4") for _ in range(2))
    assert first.digest == again.digest
    assert {"load", "text", "image", "denoise", "decode", "encode"} <= set(first.seconds)
    assert (tmp_path / "v.mp4").stat().st_size > 0
    assert "folder:" in json.loads((pulled.folder / BASE.name / "manifest.json").read_text())["source"]


def test_one_changed_bit_is_found_and_named(pulled: Library) -> None:
    path = next((pulled.folder / BASE.vae_part).glob("*.safetensors"))
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        (damage,) = verifying.rehash(pulled, BASE, quiet)
        assert (damage.component, damage.file) == (BASE.vae_part, path.name)
        path.write_bytes(good[:-1])
        with pytest.raises(ImportFailed, match="expected"):
            verifying.rehash(pulled, BASE, quiet)
    finally:
        path.write_bytes(good)


def test_files_are_told_apart_by_the_names_they_are_published_under(tmp_path: Path) -> None:
    preset = PRESETS["wan2.2-i2v-a14b"]
    names = ("TurboWan2.2-I2V-A14B-low-720P.pth", "TurboWan2.2-I2V-A14B-high-720P-quant.pth", "Wan2.1_VAE.pth",
             "models_t5_umt5-xxl-enc-bf16.pth")  # fmt: skip
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "spiece.model").touch()
    low, high, vae, text = (tmp_path / name for name in names)
    paths = [low, high, vae, text, tmp_path / "tok"]
    found = sort_out(registry(), preset, paths, Files())
    assert found == Files(high, low, vae, text, tmp_path / "tok")
    parts = dict(given_parts(Library(tmp_path / "none"), preset, found))
    assert parts[preset.name].low == low
    assert parts["umt5-xxl"].tokenizer == tmp_path / "tok"


def test_ones_own_checkpoint_may_have_any_name_and_anything_else_is_asked_about(tmp_path: Path) -> None:
    mine, other = tmp_path / "my-tune.safetensors", tmp_path / "notes.txt"
    for path in (mine, other):
        path.touch()
    preset = PRESETS["wan2.1-t2v-1.3b"]
    assert sort_out(registry(), preset, [mine], Files()).transformer == mine
    with pytest.raises(InvalidRequest) as caught:
        sort_out(registry(), preset, [mine, other], Files())
    assert "notes.txt is nothing" in caught.value.message
    assert "--vae" in caught.value.next
    with pytest.raises(InvalidRequest, match="does not exist"):
        sort_out(registry(), preset, [tmp_path / "gone"], Files())


def test_a_folder_of_wan_is_read_whole(published: Path) -> None:
    found = sort_out(registry(), BASE, [published], Files())
    assert found == Files(
        published / "high_noise_model", published / "low_noise_model", published / "Wan2.1_VAE.pth",
        published / "models_t5_umt5-xxl-enc-bf16.pth", published / "google" / "umt5-xxl",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (Files(), "nothing to import"),
        (Files(text_encoder=Path("t5.pth")), "needs its tokenizer"),
        (Files(vae=Path("v.pth")), "itself is not among"),
    ],
)
def test_an_import_that_could_not_end_in_a_model_is_refused(tmp_path: Path, files: Files, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        given_parts(Library(tmp_path), PRESETS["wan2.1-t2v-1.3b"], files)


def test_a_file_that_is_no_checkpoint_leaves_no_component(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"not a checkpoint")
    library = Library(tmp_path / "library")
    parts = given_parts(library, BASE, Files(transformer=bad, low=bad, vae=bad))
    with pytest.raises(ImportFailed, match=r"bad\.pth"):
        bring_in(library, BASE, Part(parts[0][0], "vae", "", ()), parts[0][1], "test", quiet)
    assert library.components() == {}


def test_removing_takes_what_only_this_model_needs(tmp_path: Path) -> None:
    library = write_library(tmp_path)
    other = dataclasses.replace(I2V, name="other-i2v", text_part="own-text")
    write_component(tmp_path, other.name, "transformer", preset=other)
    write_component(tmp_path, "own-text", "text_encoder")
    assert plan_removal(library, I2V.name).kept == (("wan2.1-vae", ("other-i2v",)),)
    with pytest.raises(StillNeeded, match=r"needed by other-i2v, tiny-i2v|needed by tiny-i2v, other-i2v"):
        remove(library, "wan2.1-vae")
    assert remove(library, I2V.name).removed == (I2V.name, "umt5-xxl")
    assert set(library.components()) == {"other-i2v", "own-text", "wan2.1-vae"}
    remove(library, "other-i2v")
    assert [path.name for path in tmp_path.iterdir()] == [".incoming"]
    with pytest.raises(InvalidRequest, match="not in the model library"):
        remove(library, I2V.name)
    with pytest.raises(InvalidRequest, match="comes with turbofarm"):
        remove(library, "demo-t2v")


def test_the_database_is_told_if_there_is_one_and_never_in_the_way(tmp_path: Path) -> None:
    from farm.db import models
    from farm.db.engine import migrate, open_database

    write_library(tmp_path / "models")
    settings = load_settings(home=tmp_path)
    assert register(settings) is None, "no farm yet: nothing to tell"
    assert not (tmp_path / "farm.db").exists()
    (tmp_path / "farm.db").write_bytes(b"not a database")
    assert "was not told" in (register(settings) or "")
    (tmp_path / "farm.db").unlink()
    migrate(settings.database_url)
    assert register(settings) is None
    db = open_database(settings.database_url)
    noted = {model.name: model.digest for model in models.find(db)}
    db.close()
    assert noted == {one.name: one.digest for one in on_disk(Library(settings.models))}
    assert set(noted) == {"demo-t2v", "demo-i2v", I2V.name}
