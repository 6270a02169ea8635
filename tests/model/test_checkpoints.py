"""Checkpoints in every published layout, small and random, load and render; damage is refused by name."""

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoints import int8, pth
from model.checkpoints.importing import import_text_encoder, import_transformer, import_vae
from model.errors import CorruptWeights, ModelError
from model.events import Frames, RenderSpec
from model.library import MANIFEST, Library
from model.pipeline import Pipeline
from model.wan.text_encoder import WanText
from tests.model import small

SPEC = RenderSpec("a red kite over the dunes", 64, 48, 9, 2, seed=5)
PICTURE = np.random.default_rng(0).integers(0, 255, (40, 70, 3), np.uint8)
I2V = RenderSpec("a red kite", 64, 48, 9, 3, seed=5, guidance=2.0, image=PICTURE)


def frames(pipeline: Pipeline, spec: RenderSpec) -> np.ndarray:
    return np.concatenate([e.frames for e in pipeline.render(spec) if isinstance(e, Frames)])


@cache
def diffusers_modules() -> dict[str, torch.nn.Module]:
    """Both experts and the VAE as diffusers makes them."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    config = small.BASE.transformer
    torch.manual_seed(11)
    experts = {
        name: WanTransformer3DModel(
            num_attention_heads=config.heads, attention_head_dim=config.head_dim, in_channels=36, out_channels=16,
            text_dim=config.text_dim, ffn_dim=config.ffn_dim, num_layers=config.layers,
        ).eval()
        for name in ("transformer", "transformer_2")
    }  # fmt: skip
    return {**experts, "vae": AutoencoderKLWan(base_dim=8, z_dim=16).eval()}


def save_diffusers(folder: Path) -> Path:
    """As diffusers and transformers save a model, in shards."""
    for name, module in diffusers_modules().items():
        module.save_pretrained(folder / name, max_shard_size="200KB")
    small.text_encoder().encoder.save_pretrained(folder / "text_encoder", max_shard_size="20KB")
    small.save_tokenizer(folder / "tokenizer")
    return folder


@pytest.mark.parametrize(("quantised", "layout"), [(False, "turbodiffusion"), (True, "turbodiffusion-int8")])
def test_turbodiffusion_files_render_and_come_back_bit_by_bit(tmp_path: Path, quantised: bool, layout: str) -> None:
    library = small.install(tmp_path, small.TURBO, lambda f: small.save_turbo(f, quantised))
    assert library.read("small-t2v").layout == layout
    pipeline = Pipeline.load(library.find("small-t2v"), library)
    assert small.same_state(pipeline.parts.vae, small.vae())
    assert frames(pipeline, SPEC).shape == (9, 48, 64, 3)
    if not quantised:
        assert small.same_state(pipeline.parts.transformer, small.transformer(small.TURBO))
        return
    stored = load_file(tmp_path / "models" / "small-t2v" / "transformer-00001.safetensors")
    published = small.turbo(small.TURBO, quantised=True)
    for name, tensor in published.items():
        ours = name.replace("self_attn.attn_op.local_attn.proj_l", "self_attn.proj_l")
        assert torch.equal(stored[ours], tensor), name
    exact, found = small.transformer(small.TURBO), pipeline.parts.transformer
    for name, tensor in exact.state_dict().items():
        assert (found.state_dict()[name] - tensor).abs().max() <= tensor.abs().max() / 100, name


def test_an_official_folder_with_two_experts_in_shards_comes_back_bit_by_bit(tmp_path: Path) -> None:
    library = small.install(tmp_path, small.BASE, small.save_base)
    pipeline = Pipeline.load(library.find("small-i2v-base"), library)
    assert small.same_state(pipeline.parts.transformer, small.transformer(small.BASE, 0))
    assert pipeline.parts.low is not None
    assert small.same_state(pipeline.parts.low, small.transformer(small.BASE, 1))
    assert frames(pipeline, I2V).shape == (9, 48, 64, 3)
    again = Pipeline.load(library.find("small-i2v-base"), library)
    assert (frames(again, I2V) == frames(pipeline, I2V)).all()


@torch.no_grad()
def test_a_diffusers_folder_computes_what_diffusers_computes(tmp_path: Path) -> None:
    library = small.install(tmp_path, small.BASE, save_diffusers)
    assert {c.layout for c in library.components().values()} == {"diffusers", "transformers"}
    parts = Pipeline.load(library.find("small-i2v-base"), library).parts
    theirs = diffusers_modules()
    generator = torch.Generator().manual_seed(0)
    latent, text = torch.randn(1, 36, 3, 6, 8, generator=generator), torch.randn(1, 24, 32, generator=generator)
    timestep = torch.tensor([700.0])
    for ours, name in ((parts.transformer, "transformer"), (parts.low, "transformer_2")):
        velocity = theirs[name](latent, timestep, text, return_dict=False)[0]
        assert ours is not None
        torch.testing.assert_close(ours(latent, timestep, text), velocity, rtol=1e-4, atol=1e-4)
    z = torch.randn(1, 16, 3, 6, 8, generator=generator)
    torch.testing.assert_close(
        parts.vae.decoder(parts.vae.conv2(z, cache := {}), cache).clamp(-1, 1), theirs["vae"].decode(z).sample,
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    video = torch.rand(1, 3, 9, 48, 64, generator=generator) * 2 - 1
    torch.testing.assert_close(
        parts.vae.moments(video)[0], theirs["vae"].encode(video).latent_dist.mean, rtol=1e-4, atol=1e-4
    )

    assert isinstance(parts.text, WanText)
    assert small.same_state(parts.text.encoder, small.text_encoder())


def test_matrices_are_kept_in_the_models_dtype_and_small_tensors_as_they_were(tmp_path: Path) -> None:
    wide = dataclasses.replace(small.TURBO, dtype="bfloat16")
    library = small.install(tmp_path, wide, small.save_turbo)
    stored = load_file(tmp_path / "models" / "small-t2v" / "transformer-00001.safetensors")
    assert stored["blocks.0.ffn.0.weight"].dtype is torch.bfloat16
    assert stored["blocks.0.modulation"].dtype is stored["blocks.0.ffn.0.bias"].dtype is torch.float32
    pipeline = Pipeline.load(library.find("small-t2v"), library)
    assert pipeline.parts.transformer.time_projection[1].weight.dtype is torch.float32
    video, exact = frames(pipeline, SPEC), frames(exact_pipeline(tmp_path), SPEC)
    assert np.abs(video.astype(int) - exact.astype(int)).mean() < 12


def exact_pipeline(folder: Path) -> Pipeline:
    library = small.install(folder / "exact", small.TURBO, small.save_turbo)
    return Pipeline.load(library.find("small-t2v"), library)


# -- damage -------------------------------------------------------------------------------------------------


class Runs:
    """What unpickling must never run."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return (print, ("code ran",))


FILE_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: p.unlink(), "no such file"),
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:-5000]), "not a whole .pth file"),
    "empty": (lambda p: p.write_bytes(b""), "not a whole .pth file"),
    "a web page": (lambda p: p.write_text("<html>404</html>"), "not a whole .pth file"),
    "a plain pickle": (lambda p: p.write_bytes(pickle.dumps({"x": Runs()})), "not a whole .pth file"),
    "code in a torch file": (lambda p: torch.save({"x": Runs()}, p), "holds more than tensors"),
    "a list": (lambda p: torch.save([torch.ones(1)], p), "expected a dictionary of tensors, found list"),
    "a nested dictionary": (lambda p: torch.save({"model": {"x": torch.ones(1)}}, p), "expected a dictionary"),
}


@pytest.mark.parametrize("damage", FILE_DAMAGE)
def test_a_damaged_or_unsafe_file_is_refused(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "turbo.pth"
    torch.save(small.turbo(small.TURBO), path)
    break_it, message = FILE_DAMAGE[damage]
    break_it(path)
    with pytest.raises(CorruptWeights, match=message) as error:
        import_transformer(Library(tmp_path / "models"), small.TURBO, path)
    assert "turbo.pth" in error.value.message
    assert error.value.next
    assert "code ran" not in capsys.readouterr().out
    assert nothing_is_left(tmp_path / "models")


def nothing_is_left(library: Path) -> bool:
    return not any(path.is_file() for path in library.rglob("*"))


def drop(name: str) -> Callable[[small.Tensors], object]:
    return lambda t: t.pop(name)


def put(name: str, tensor: torch.Tensor) -> Callable[[small.Tensors], object]:
    return lambda t: t.update({name: tensor})


Q = "blocks.1.self_attn.q"
TENSOR_DAMAGE: dict[str, tuple[Callable[[small.Tensors], object], str]] = {
    "scale missing": (drop(f"{Q}.scale"), rf"{Q}.scale is missing"),
    "codes missing": (drop(f"{Q}.int8_weight"), rf"{Q}.weight is missing"),
    "scale of another block size": (
        put(f"{Q}.scale", torch.ones(3, 3)),
        r"expected \[1, 1\], found \[3, 3\]",
    ),
    "codes that are not int8": (put(f"{Q}.int8_weight", torch.ones(96, 96)), "expected int8, found torch.float32"),
    "scale not finite": (put(f"{Q}.scale", torch.full((1, 1), torch.nan)), rf"{Q}.scale holds values"),
    "bias not finite": (put(f"{Q}.bias", torch.full((96,), torch.inf)), rf"{Q}.bias holds values"),
    "codes of another size": (
        put(f"{Q}.int8_weight", torch.ones(65, 65, dtype=torch.int8)),
        rf"{Q}.int8_weight expected \[96, 96\], found \[65, 65\]",
    ),
    "proj_l missing": (
        drop("blocks.0.self_attn.attn_op.local_attn.proj_l.bias"),
        r"blocks.0.self_attn.proj_l.bias is missing",
    ),
    "one block more": (put("blocks.2.norm3.weight", torch.ones(96)), r"blocks.2.norm3.weight does not belong here"),
    "image channels": (
        put("patch_embedding.weight", torch.ones(96, 144)),
        r"patch_embedding.weight expected \[96, 64\], found \[96, 144\]",
    ),
}


@pytest.mark.parametrize("damage", TENSOR_DAMAGE)
def test_tensors_that_do_not_fit_are_refused_by_file_and_name(tmp_path: Path, damage: str) -> None:
    tensors = small.turbo(small.TURBO, quantised=True)
    break_it, message = TENSOR_DAMAGE[damage]
    break_it(tensors)
    torch.save(tensors, tmp_path / "turbo.pth")
    with pytest.raises(CorruptWeights, match=message) as error:
        import_transformer(Library(tmp_path / "models"), small.TURBO, tmp_path / "turbo.pth")
    assert "turbo.pth: tensor " in error.value.message
    assert nothing_is_left(tmp_path / "models")


def _unlist(folder: Path) -> None:
    index = next(folder.glob("*.index.json"))
    listed = json.loads(index.read_text())
    listed["weight_map"]["head.head.bias"] = sorted(listed["weight_map"].values())[0]
    index.write_text(json.dumps(listed))


SHARD_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard missing": (
        lambda f: sorted(f.glob("*00002*"))[0].unlink(),
        "00002.safetensors: no such file",
    ),
    "a shard cut short": (lambda f: _cut(sorted(f.glob("*00001*"))[0]), "00001-of-00002.*not a whole safetensors"),
    "an index that is no JSON": (lambda f: next(f.glob("*.json")).write_text("{"), "not an index of shards"),
    "an index that lies": (_unlist, "tensor head.head.bias is not in it"),
    "no files": (lambda f: [p.unlink() for p in f.iterdir()], "no .safetensors files here"),
    "a tensor twice": (
        lambda f: [next(f.glob("*.json")).unlink(), shutil.copy(*sorted(f.glob("*"))[:1], f / "again.safetensors")],
        "is also in",
    ),
}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", SHARD_DAMAGE)
def test_damaged_shards_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    folder = small.save_base(tmp_path / "published")
    break_it, message = SHARD_DAMAGE[damage]
    break_it(folder / "low_noise_model")
    library = Library(tmp_path / "models")
    with pytest.raises(CorruptWeights, match=message):
        import_transformer(library, small.BASE, folder / "high_noise_model", folder / "low_noise_model")
    assert nothing_is_left(tmp_path / "models")


def test_a_part_in_anothers_place_is_refused(tmp_path: Path) -> None:
    folder, library = small.save_base(tmp_path / "published"), Library(tmp_path / "models")
    with pytest.raises(CorruptWeights, match=r"Wan2.1_VAE.pth: tensor blocks.0.*is missing"):
        import_transformer(library, small.TURBO, folder / "Wan2.1_VAE.pth")
    with pytest.raises(CorruptWeights, match=r"umt5-xxl-enc-bf16.pth: tensor conv1.bias is missing"):
        import_vae(library, small.BASE, folder / "models_t5_umt5-xxl-enc-bf16.pth")
    with pytest.raises(CorruptWeights, match=r"Wan2.1_VAE.pth: tensor blocks.0.attn.k.weight is missing"):
        import_text_encoder(library, small.BASE, folder / "Wan2.1_VAE.pth", folder / "google" / "umt5-xxl")
    with pytest.raises(CorruptWeights, match="no tokenizer here"):
        import_text_encoder(library, small.BASE, folder / "models_t5_umt5-xxl-enc-bf16.pth", folder)
    with pytest.raises(ModelError, match="has two: the high-noise and the low-noise expert"):
        import_transformer(library, small.BASE, folder / "high_noise_model")
    with pytest.raises(ModelError, match="has one transformer"):
        import_transformer(library, small.TURBO, folder / "high_noise_model", folder / "low_noise_model")
    with pytest.raises(CorruptWeights, match="not a checkpoint"):
        import_transformer(library, small.TURBO, folder / "google" / "umt5-xxl" / "spiece.model")
    # Without the linear branch it is the undistilled model, not TurboDiffusion's.
    tensors = {k: v for k, v in small.turbo(small.TURBO).items() if "proj_l" not in k}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CorruptWeights, match=r"proj_l.bias is missing"):
        import_transformer(library, small.TURBO, tmp_path / "x.safetensors")
    assert nothing_is_left(tmp_path / "models")


def test_a_disk_that_fills_leaves_nothing_and_the_old_model_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = small.install(tmp_path, small.TURBO, small.save_turbo)
    before = library.digest(library.find("small-t2v"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model.checkpoints.safetensors.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        import_vae(library, small.TURBO, tmp_path / "published" / "Wan2.1_VAE.pth")
    assert library.digest(library.find("small-t2v")) == before
    assert not list((tmp_path / "models" / ".incoming").iterdir())


LIBRARY_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "is not in the model library"),
    "a manifest that is no JSON": (lambda f: (f / MANIFEST).write_text("["), "not a manifest"),
    "another's manifest": (lambda f: shutil.copy(f.parent / "small-vae" / MANIFEST, f), "belongs to small-vae"),
    "a file gone": (lambda f: (f / "transformer-00001.safetensors").unlink(), "no such file"),
    "a file cut short": (
        lambda f: _cut(f / "transformer-00001.safetensors"),
        r"transformer-00001.safetensors: expected \d+ bytes, found \d+",
    ),
}


@pytest.mark.parametrize("damage", LIBRARY_DAMAGE)
def test_a_damaged_library_is_refused_by_file_and_offers_nothing(tmp_path: Path, damage: str) -> None:
    library = small.install(tmp_path, small.TURBO, small.save_turbo)
    preset = library.find("small-t2v")
    break_it, message = LIBRARY_DAMAGE[damage]
    break_it(tmp_path / "models" / "small-t2v")
    with pytest.raises(CorruptWeights, match=message):
        library.weights(preset)
    assert [p.name for p in library.installed()] == ["demo-t2v", "demo-i2v"]


def test_codes_are_expanded_block_by_block(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(
        {"a.int8_weight": torch.full((130, 3), 2, dtype=torch.int8), "a.scale": torch.tensor([[1.0], [3.0]])}, path
    )
    weight = int8.expanded(pth.open_file(path))["a.weight"].read("cpu")
    assert (weight[:128] == 2).all()
    assert (weight[128:] == 6).all()
