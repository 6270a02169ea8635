"""What stays on the card: decided from sizes, and the same video either way."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import loading
from model.checkpoints.headers import numbers
from model.errors import CorruptWeights
from model.events import Frames, RenderSpec
from model.memory import (
    LINEARS,
    Parts,
    Plan,
    cost,
    costs,
    free_bytes,
    parts_of,
    parts_of_shapes,
    plan_beside,
    plan_within,
)
from model.pipeline import Pipeline
from model.wan.config import PRESETS, Preset
from model.wan.text_encoder import WanText
from tests.model import small


def test_the_text_encoder_leaves_a_card_that_is_too_small_and_stays_on_a_larger_one(tmp_path: Path) -> None:
    library = small.install(tmp_path, small.TURBO, lambda f: small.save_turbo(f, quantised=True))
    preset = library.find("small-t2v")
    weights = library.weights(preset)
    plans = [plan_beside(preset, weights, free).text_on_host for free in (0, 1 << 30, 2 << 30, 80 << 30)]
    assert plans == [True, True, False, False]


def test_the_text_encoder_is_placed_by_what_the_denoiser_and_the_vae_have_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = small.install(tmp_path, small.TURBO, small.save_turbo)
    preset = library.find("small-t2v")
    done: list[str] = []
    fill = loading.fill

    def filled(module: torch.nn.Module, *rest: Any) -> None:
        done.append(type(module).__name__)
        fill(module, *rest)

    def asked(_: object) -> int:
        assert done == ["WanTransformer", "WanVAE"]  # their bits and fragments are in what is left
        return left.pop()

    monkeypatch.setattr(loading, "fill", filled)
    monkeypatch.setattr(loading, "free_bytes", asked)
    plans: list[Plan] = []
    monkeypatch.setattr(loading, "_text", lambda *rest: plans.append(rest[-1]))
    left = [2 << 30, 1 << 30]
    while left:
        done.clear()
        loading.load(preset, library, "cpu")
    loading.load(preset, library, "cpu", Plan(text_on_host=True))
    assert [plan.text_on_host for plan in plans] == [True, False, True]


@pytest.mark.parametrize(
    ("preset", "save"),
    [
        (small.TURBO, small.save_turbo),
        (small.TURBO, lambda folder: small.save_turbo(folder, quantised=True)),
        (small.BASE, small.save_base),
    ],
    ids=["distilled", "in codes", "two experts"],
)
def test_linear_layers_in_8_bits_are_counted_to_the_byte(
    preset: Preset, save: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As loading leaves them, whether the files hold codes or not; the rest in bfloat16, but time in float32."""
    monkeypatch.setenv(LINEARS, "int8")
    library = small.install(tmp_path, preset, save)
    brain = replace(preset, dtype="bfloat16")
    weights = library.weights(preset)
    parts = parts_of(brain, weights)
    whole, each = (
        sum(t.nbytes for t in model.state_dict().values())
        for model in (
            loading._transformer(brain, weights.transformer, torch.bfloat16, "cpu", codes)  # pyright: ignore[reportPrivateUsage]
            for codes in (None, torch.int8)
        )
    )
    experts = 1 if preset.boundary is None else 2
    assert parts.linears_8bit
    assert parts.denoiser == experts * each
    assert parts.reading == (experts - 1) * each + whole
    expected = parts_of_shapes(brain)
    assert (parts.denoiser, parts.reading) == (expected.denoiser, expected.reading)
    monkeypatch.setenv(LINEARS, "bf16")
    parts = parts_of(brain, library.weights(preset))
    assert (parts.denoiser, parts.reading, parts.linears_8bit) == (experts * whole, experts * whole, False)


def test_an_expert_that_is_read_whole_needs_room_too() -> None:
    """Two of 14 GB in 8 bits: the second comes in bfloat16 beside the first. A small video takes less than that."""
    preset = PRESETS["wan2.2-i2v-a14b"]
    parts = parts_of_shapes(preset)
    few, many = (cost(parts, size, Plan(text_on_host=True)) for size in ((480, 272), preset.size))
    assert few.peak == parts.reading + (1 << 30)
    assert few.resident == many.resident < 29 << 30 < parts.reading < many.peak


def test_sizes_are_read_from_headers_and_8_bit_codes_count_once(tmp_path: Path) -> None:
    library = small.install(tmp_path, small.TURBO, lambda f: small.save_turbo(f, quantised=True))
    files = library.weights(library.find("small-t2v")).transformer
    expected = sum(p.numel() for p in small.transformer(small.TURBO).state_dict().values())
    assert numbers(files) == expected


def test_a_models_shapes_take_what_its_files_take(tmp_path: Path) -> None:
    for preset, save in ((small.TURBO, small.save_turbo), (small.BASE, small.save_base)):
        library = small.install(tmp_path / preset.name, preset, save)
        found, expected = parts_of(preset, library.weights(preset)), parts_of_shapes(preset)
        assert (found.denoiser, found.vae, found.text) == (expected.denoiser, expected.vae, expected.text)
    assert not found.stored_8bit


@pytest.mark.parametrize(
    ("linears", "measured"),
    [
        ("bf16", {"1.3b": (13.6, 20.6), "14b": (37.9, 54.0), "a14b": (54.2, 70.3)}),
        ("fp8", {"1.3b": (12.2, 19.3), "14b": (24.7, 41.1), "a14b": (38.6, 55.0)}),
    ],
)
def test_the_published_shapes_take_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, linears: str, measured: dict[str, tuple[float, float]]
) -> None:
    """Peaks of `python -m model.bench load --render` on an H100, in GiB; the margin is not part of those."""
    monkeypatch.setenv(LINEARS, linears)
    for shape, (resident, peak) in measured.items():
        name = f"wan2.2-i2v-{shape}" if shape == "a14b" else f"wan2.1-t2v-{shape}"
        preset = PRESETS[name]
        found = plan_within(costs(parts_of_shapes(preset), preset.size), 79 << 30)
        assert found.resident / 2**30 == pytest.approx(resident, rel=0.01)
        assert found.peak / 2**30 - 1 == pytest.approx(peak, rel=0.01)
        assert found.plan.text_on_host == ((linears, shape) == ("bf16", "a14b"))


def test_while_a_prompt_is_encoded_its_encoder_needs_room_too() -> None:
    parts = Parts(denoiser=10 << 30, vae=1 << 30, text=8 << 30)
    small_video = cost(parts, (256, 256), Plan(text_on_host=True))
    assert (small_video.resident, small_video.peak) == (11 << 30, 20 << 30)
    assert [one.plan.text_on_host for one in costs(parts, (256, 256))] == [False, True]


def test_a_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((1000).to_bytes(8, "little") + b"{}")
    with pytest.raises(CorruptWeights, match=r"a\.safetensors: not a whole safetensors file"):
        numbers([path])
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(CorruptWeights):
        numbers([path])
    with pytest.raises(CorruptWeights, match="no such file"):
        numbers([tmp_path / "b.safetensors"])


def test_a_cpu_has_nothing_to_move_weights_off() -> None:
    assert free_bytes("cpu") is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card to have two places for weights")
def test_the_plan_changes_no_frame(tmp_path: Path) -> None:
    library = small.install(tmp_path, small.TURBO, small.save_turbo)
    spec = RenderSpec("a red kite", 64, 48, 9, 2, seed=5)
    videos = []
    for number, plan in enumerate((Plan(text_on_host=False), Plan(text_on_host=True))):
        pipeline = Pipeline.load(library.find("small-t2v"), library, "cuda", plan)
        assert isinstance(pipeline.parts.text, WanText)
        assert pipeline.parts.text.encoder.encoder.shared.weight.is_cuda == (number == 0)
        pipeline.parts.text.cache = None
        videos.append(np.concatenate([e.frames for e in pipeline.render(spec) if isinstance(e, Frames)]))
    assert (videos[0] == videos[1]).all()
