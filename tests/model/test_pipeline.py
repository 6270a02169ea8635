"""The pipeline's promises: order of events, one video a seed, cancel between steps, damaged weights refused."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.errors import CorruptWeights, ModelError, NotNumbers, PromptTooLong, RenderCancelled
from model.events import Frames, Preview, RenderSpec, Stage, Step
from model.library import Library
from model.pipeline import Pipeline
from model.wan.config import preset

PROMPT = "a red circle moving right on a white background"
SPEC = RenderSpec(PROMPT, 96, 96, 17, steps=3, seed=5, guidance=1.0)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load(preset("demo-t2v"))


def frames_of(pipeline: Pipeline, spec: RenderSpec) -> np.ndarray:
    return np.concatenate([e.frames for e in pipeline.render(spec) if isinstance(e, Frames)])


def test_events_come_in_the_order_of_the_work(pipeline: Pipeline) -> None:
    events = list(pipeline.render(SPEC))
    assert [e.name for e in events if isinstance(e, Stage)] == ["text", "denoise", "decode"]
    assert [(e.k, e.n) for e in events if isinstance(e, Step)] == [(1, 3), (2, 3), (3, 3)]
    previews = [e for e in events if isinstance(e, Preview)]
    assert [e.step for e in previews] == [1, 2, 3]
    assert all(e.image.shape == (12, 12, 3) and e.image.dtype == np.uint8 for e in previews)
    chunks = [e for e in events if isinstance(e, Frames)]
    assert [(e.first, len(e.frames)) for e in chunks] == [(0, 17)]
    assert all(e.frames.shape[1:] == (96, 96, 3) and e.frames.dtype == np.uint8 for e in chunks)


def test_one_seed_is_one_video_and_another_seed_another(pipeline: Pipeline) -> None:
    first = frames_of(pipeline, SPEC)
    again = frames_of(Pipeline.load(preset("demo-t2v")), SPEC)
    assert first.tobytes() == again.tobytes()
    assert frames_of(pipeline, dataclasses.replace(SPEC, seed=6)).tobytes() != first.tobytes()


def test_noise_is_drawn_on_the_cpu_and_pinned(pipeline: Pipeline) -> None:
    noise = pipeline.noise(SPEC)
    assert noise.shape == (1, 16, 5, 12, 12)
    expected = torch.randn(noise.shape, generator=torch.Generator("cpu").manual_seed(5))
    assert torch.equal(noise, expected)


@pytest.mark.parametrize("after", ["text", "step 1", "step 2", "frames"])
def test_cancel_is_obeyed_at_the_next_step(pipeline: Pipeline, after: str) -> None:
    seen: list[str] = []
    with pytest.raises(RenderCancelled):  # noqa: PT012 - the events before it matter
        for event in pipeline.render(SPEC, lambda: after in seen):
            match event:
                case Stage(name):
                    seen.append(name)
                case Step(k, _):
                    seen.append(f"step {k}")
                case Frames():
                    seen.append("frames")
                case Preview():
                    pass
    allowed = {"text": 2, "step 1": 3, "step 2": 4, "frames": 7}  # `denoise` is announced before its first step
    assert len(seen) == allowed[after]


def test_too_many_words_are_refused(pipeline: Pipeline) -> None:
    with pytest.raises(PromptTooLong, match="has 60 words"):
        list(pipeline.render(dataclasses.replace(SPEC, prompt="red " * 60)))


def test_a_model_that_is_not_here_says_so_and_how_to_get_it() -> None:
    with pytest.raises(CorruptWeights, match=r"wan2.1-t2v-14b is not in the model library") as error:
        Pipeline.load(preset("wan2.1-t2v-14b"))
    assert error.value.next == "run: farm models pull wan2.1-t2v-14b"
    with pytest.raises(ModelError, match=r"unknown model 'wan'"):
        Library().find("wan")


def test_only_models_with_weights_count_as_installed() -> None:
    assert [p.name for p in Library().installed()] == ["demo-t2v", "demo-i2v"]


def copy_weights(folder: Path) -> Path:
    source = preset("demo-t2v").weights
    assert source is not None
    shutil.copytree(source, folder)
    return folder


def load_from(folder: Path) -> Pipeline:
    return Pipeline.load(dataclasses.replace(preset("demo-t2v"), weights=folder))


def rewrite(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def transpose(t: dict[str, torch.Tensor]) -> None:
    t["patch_embedding.weight"] = t["patch_embedding.weight"].T.contiguous()


def poison(t: dict[str, torch.Tensor]) -> None:
    t["head.head.bias"][3] = float("nan")


DAMAGE = {
    "missing file": (lambda p: p.unlink(), "no such file"),
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:-7]), "not a whole safetensors file"),
    "empty": (lambda p: p.write_bytes(b""), "not a whole safetensors file"),
    "text": (lambda p: p.write_text("<html>404</html>"), "not a whole safetensors file"),
    "tensor missing": (lambda p: rewrite(p, lambda t: t.pop("head.head.bias")), "tensor head.head.bias is missing"),
    "tensor foreign": (lambda p: rewrite(p, lambda t: t.update(x=torch.ones(1))), "tensor x does not belong here"),
    "shape": (lambda p: rewrite(p, transpose), r"patch_embedding.weight expected \[256, 64\], found \[64, 256\]"),
    "not finite": (lambda p: rewrite(p, poison), "head.head.bias holds values that are not finite"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_weights_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    folder = copy_weights(tmp_path / "weights")
    break_it, message = DAMAGE[damage]
    break_it(folder / "transformer-t2v.safetensors")
    with pytest.raises(CorruptWeights, match=message) as error:
        load_from(folder)
    assert "transformer-t2v.safetensors" in error.value.message
    assert error.value.next


def test_the_digest_names_the_bytes(tmp_path: Path) -> None:
    p = preset("demo-t2v")
    copy = dataclasses.replace(p, weights=copy_weights(tmp_path / "weights"))
    assert Library().digest(copy) == Library().digest(p)
    rewrite(tmp_path / "weights" / "preview.safetensors", lambda t: t["colour"].zero_())
    assert Library().digest(copy) != Library().digest(p)
    with pytest.raises(CorruptWeights, match="is not in the model library"):
        Library().digest(preset("wan2.1-t2v-1.3b"))


@pytest.mark.parametrize("where", ["denoiser", "decoder"])
def test_values_that_are_not_numbers_end_the_render_where_they_appear(where: str) -> None:
    broken = Pipeline.load(preset("demo-t2v"))
    part = broken.parts.transformer if where == "denoiser" else broken.parts.vae
    with torch.no_grad():
        next(p for name, p in reversed(list(part.named_parameters())) if name.endswith("bias")).fill_(torch.nan)
    seen: list[str] = []
    said = "latent of step 1" if where == "denoiser" else "picture from frame 0"
    with pytest.raises(NotNumbers, match=said):  # noqa: PT012 - the events before it matter
        for event in broken.render(SPEC):
            seen.append(type(event).__name__)
    assert seen == ["Stage", "Stage"] if where == "denoiser" else "Frames" not in seen
