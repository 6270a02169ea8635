"""What is judged: the shipped demo models, with fewer steps, with dense attention, and what they came from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from model.loading import Resident
from model.pipeline import Pipeline
from model.training.denoiser import Denoiser, loaded
from model.training.setup import CLIPS, GUIDANCE, SHAPES
from model.wan.config import PRESETS, Preset

TEACHER_STEPS = 16


@dataclass(frozen=True)
class Variant:
    """One way to render. `within`: of which other variants its shares may be so many points below."""

    name: str
    preset: Preset
    pipeline: Callable[[], Pipeline]
    steps: int
    guidance: float
    shipped: bool = False
    within: Mapping[str, float] = field(default_factory=dict)


def all_variants(device: str, run: Path | None, zero_block: int | None = None) -> list[Variant]:
    """Of each demo model: as shipped, with fewer steps, dense; with `run` its bf16 weights and its teacher."""
    found = []
    for p in (p for p in PRESETS.values() if p.text_encoder == "demo"):
        pipeline = Pipeline.load(p, device=device)
        if zero_block is not None:
            zeroed(pipeline, zero_block)
        found += _of(p, pipeline, run if p.distilled else None)
    return found


def zeroed(pipeline: Pipeline, block: int) -> None:
    """Take a block's weights away: what is left must not pass for the model."""
    with torch.no_grad():
        for parameter in pipeline.parts.transformer.blocks[block].parameters():
            parameter.zero_()


def _of(p: Preset, pipeline: Pipeline, run: Path | None) -> list[Variant]:
    def dense() -> Pipeline:
        return _attending(pipeline, None)

    def as_shipped() -> Pipeline:
        return _attending(pipeline, p.topk)

    name, steps = p.name, p.steps
    beside = {f"{name} dense": 2.0, f"{name} bf16": 1.0, f"{name} teacher": 3.0}
    found = [Variant(name, p, as_shipped, steps, p.guidance, shipped=True, within=beside)]
    if p.distilled:
        found += [Variant(f"{name} {n} step{'s' * (n > 1)}", p, as_shipped, n, 1.0) for n in (2, 1)]
        found.append(Variant(f"{name} dense", p, dense, steps, 1.0))
    if run is not None:
        found.append(Variant(f"{name} bf16", p, lambda: _trained(pipeline, run, "sparse", p), steps, 1.0))
        teacher = replace(p, distilled=False, topk=None, shift=CLIPS["whole"].shift, guidance=GUIDANCE)

        def taught() -> Pipeline:
            return _trained(pipeline, run, "teacher", teacher)

        found.append(Variant(f"{name} teacher", teacher, taught, TEACHER_STEPS, GUIDANCE))
    return found


def _attending(pipeline: Pipeline, topk: float | None) -> Pipeline:
    pipeline.parts.transformer.topk = topk
    return pipeline


def _trained(pipeline: Pipeline, run: Path, stage: str, p: Preset) -> Pipeline:
    """The weights of a stage with the shipped VAE."""
    model: Denoiser = loaded(SHAPES[p.task], run / f"{stage}-{p.task}.safetensors", pipeline.device)
    model.transformer.topk = p.topk
    parts: Resident = replace(pipeline.parts, transformer=model.transformer, text=model.text_encoder)
    return Pipeline(p, parts)
