"""Image to video: the picture is fitted, becomes conditioning channels, and the right expert sees them."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from model import loading, sampler
from model.errors import ImageMissing, RenderCancelled
from model.events import Event, Frames, RenderSpec, Stage
from model.pipeline import Pipeline
from model.wan.conditioning import fit_image, image_condition
from model.wan.config import TransformerConfig, VAEConfig, preset
from model.wan.sizes import adaptive_size
from model.wan.transformer import WanTransformer
from model.wan.vae import WanVAE
from tests.model import small

GOLDEN = Path(__file__).parent.parent / "golden"
PICTURE = np.random.default_rng(0).integers(0, 255, (40, 70, 3), np.uint8)
SPEC = RenderSpec("a red kite", 32, 32, 5, 3, seed=5, guidance=2.0, image=PICTURE)


def golden(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, str]]:
    """State, everything else, metadata."""
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        meta = file.metadata()
    prefix = "state_dict."
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return state, {k: v for k, v in tensors.items() if not k.startswith(prefix)}, meta


@torch.no_grad()
def test_the_condition_is_the_references_latent_under_a_mask() -> None:
    state, tensors, meta = golden("vae")
    vae = WanVAE(VAEConfig(dim=int(meta["dim"])))
    vae.load_state_dict(state)
    video = tensors["encode_first_frame.video"]
    condition = image_condition(vae, video[0, :, 0], video.shape[2])
    mask, latent = condition[:, :4], condition[:, 4:]
    torch.testing.assert_close(latent, tensors["encode_first_frame.latent"], rtol=1e-4, atol=1e-5)
    assert (mask[:, :, 0] == 1).all()
    assert (mask[:, :, 1:] == 0).all()


@torch.no_grad()
def test_noise_comes_before_the_condition_as_the_reference_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    state, tensors, meta = golden("dit_i2v_head")
    config = TransformerConfig(
        dim=int(meta["dim"]), ffn_dim=int(meta["ffn_dim"]), heads=int(meta["num_heads"]),
        layers=int(meta["num_layers"]), in_channels=36, text_dim=int(meta["text_dim"]),
        text_len=int(meta["text_len"]),
    )  # fmt: skip
    model = WanTransformer(config)
    model.load_state_dict(state)
    parts = loading.Resident(NoText(), model, None, small.vae(), torch.zeros(17, 3), "digest")
    pipeline = Pipeline(dataclasses.replace(small.BASE, transformer=config, boundary=None), parts)

    def only_velocity(velocity: sampler.Velocity, *_: object) -> Iterator[sampler.Velocity]:
        yield velocity

    monkeypatch.setattr(sampler, "euler", only_velocity)
    spec = dataclasses.replace(SPEC, guidance=1.0)
    latent, text = tensors["input.latent"], tensors["input.text_embedding"]
    velocity = next(pipeline.denoise(latent, text, spec, tensors["input.conditioning"]))
    found = velocity(latent, float(tensors["input.timestep"][0]) / 1000)  # type: ignore[operator]
    torch.testing.assert_close(found, tensors["output.velocity"], rtol=1e-4, atol=1e-4)


class NoText:
    def encode(self, prompts: list[str]) -> torch.Tensor:
        raise AssertionError("not asked")

    def visit(self) -> int:
        return 0


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    library = small.install(tmp_path_factory.mktemp("i2v"), small.BASE, small.save_base)
    return Pipeline.load(library.find(small.BASE.name), library)


def frames(pipeline: Pipeline, spec: RenderSpec) -> np.ndarray:
    return np.concatenate([e.frames for e in pipeline.render(spec) if isinstance(e, Frames)])


def test_the_high_noise_expert_works_down_to_the_boundary(pipeline: Pipeline) -> None:
    calls: list[tuple[str, float]] = []
    experts = {"high": pipeline.parts.transformer, "low": pipeline.parts.low}
    handles = [
        expert.register_forward_pre_hook(lambda _, args, name=name: calls.append((name, float(args[1][0]))))
        for name, expert in experts.items()
        if expert is not None
    ]
    try:
        list(pipeline.render(dataclasses.replace(SPEC, guidance=1.0)))
    finally:
        for handle in handles:
            handle.remove()
    times = sampler.euler_timesteps(3, small.BASE.shift)[:-1]
    assert [(name, pytest.approx(t)) for name, t in calls] == [
        ("high" if t >= 0.9 else "low", pytest.approx(1000 * t)) for t in times
    ]
    assert {name for name, _ in calls} == {"high", "low"}
    assert pipeline.expert(0.9) is experts["high"]
    assert pipeline.expert(0.8999) is experts["low"]


def test_the_image_its_fit_and_the_negative_prompt_change_the_video(pipeline: Pipeline) -> None:
    first = frames(pipeline, SPEC)
    others = [
        dataclasses.replace(SPEC, image=255 - PICTURE),
        dataclasses.replace(SPEC, fit="stretch"),
        dataclasses.replace(SPEC, fit="pad"),
        dataclasses.replace(SPEC, negative_prompt="the blue sea"),
        dataclasses.replace(SPEC, guidance=4.0),
    ]
    for other in others:
        assert (frames(pipeline, other) != first).any(), other
    said = dataclasses.replace(SPEC, negative_prompt=small.BASE.negative_prompt)
    assert (frames(pipeline, said) == first).all()


def test_an_image_is_needed_here_and_refused_elsewhere(pipeline: Pipeline) -> None:
    with pytest.raises(ImageMissing, match="from an image, and there is none"):
        list(pipeline.render(dataclasses.replace(SPEC, image=None)))
    demo = Pipeline.load(preset("demo-t2v"))
    with pytest.raises(ImageMissing, match="from text only"):
        list(demo.render(RenderSpec("a red circle", 96, 96, 17, 1, 0, image=PICTURE)))


def test_a_cancel_is_seen_before_the_image_is_encoded(pipeline: Pipeline) -> None:
    seen: list[Event] = []
    events = pipeline.render(SPEC, lambda: len(seen) == 2)
    seen += [next(events), next(events)]
    assert seen == [Stage("text"), Stage("image")]
    with pytest.raises(RenderCancelled):
        next(events)


def test_a_picture_of_the_videos_size_is_taken_as_it_is() -> None:
    for fit in ("crop", "pad", "stretch"):
        fitted = fit_image(PICTURE, 70, 40, fit)
        back = ((fitted + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        assert (back == PICTURE).all()


def test_crop_keeps_the_middle_pad_keeps_all_and_stretch_distorts() -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, :20], wide[:, 20:40], wide[:, 40:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    crop, pad, stretch = (fit_image(wide, 40, 40, fit) for fit in ("crop", "pad", "stretch"))
    assert crop.shape == pad.shape == stretch.shape == (3, 40, 40)
    green = torch.tensor([-1.0, 1.0, -1.0])
    assert torch.allclose(crop[:, 20, 3:37].T, green.expand(34, 3), atol=1e-3)
    assert (pad[:, :12] == -1).all()  # black above
    assert (pad[:, 28:] == -1).all()  # and below
    assert pad[0, 20, 2] > 0.9
    assert pad[2, 20, 37] > 0.9
    assert stretch[0, 2, 2] > 0.9
    assert stretch[2, 37, 37] > 0.9


def test_shrinking_averages_instead_of_skipping() -> None:
    board = np.kron(np.indices((80, 80)).sum(0) % 2, np.ones((1, 1))).astype(np.uint8)[..., None] * 255
    small_board = fit_image(np.repeat(board, 3, axis=2), 20, 20, "crop")
    assert small_board.abs().max() < 0.1


@given(st.integers(16, 8000), st.integers(16, 8000))
def test_an_adaptive_size_is_allowed_and_keeps_the_shape(width: int, height: int) -> None:
    p = preset("wan2.2-i2v-a14b")
    w, h = adaptive_size((width, height), p.size, p)
    assert w % 16 == h % 16 == 0
    assert p.min_side <= min(w, h) <= max(w, h) <= p.max_side
    assert w * h <= p.max_pixels
    aspect = width / height
    if 0.6 < aspect < 1.7:  # beyond, the longest side ends it
        assert abs(np.log(w / h / aspect)) < 0.05
        assert w * h > 0.9 * p.size[0] * p.size[1]


def test_an_image_of_the_presets_shape_gets_its_size() -> None:
    p = preset("wan2.2-i2v-a14b")
    assert adaptive_size((1920, 1080), p.size, p) == (1280, 720)
    assert adaptive_size((1080, 1920), p.size, p) == (720, 1280)
    assert adaptive_size((500, 500), p.size, p) == (960, 960)
