"""What is judged: the shipped demo models, with fewer steps, with dense attention, and what they came from."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from model.pipeline import Pipeline
from model.training.export import PROVENANCE
from model.training.look import STEPS, pipeline_of
from model.training.setup import GUIDANCE
from model.wan.config import PRESETS, Preset
from model.wan.quantize import DTYPES, quantize_linears


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


def all_variants(
    device: str,
    run: Path | None,
    zero_block: int | None = None,
    linears: Sequence[str] = (),
    keep: Sequence[str] = (),
) -> list[Variant]:
    """Of each demo model: as shipped, with fewer steps, dense; with `run` its bf16 weights and its teacher.

    linears: beside them the shipped model with its linear layers in these 8 bits, but those that match `keep`.
    """
    found = []
    for p in (p for p in PRESETS.values() if p.text_encoder == "demo"):
        pipeline = Pipeline.load(p, device=device)
        if zero_block is not None:
            zeroed(pipeline, zero_block)
        found += _of(p, pipeline, run)
        for kind in linears:
            eight = Pipeline.load(p, device=device)
            quantize_linears(eight.parts.transformer, DTYPES[kind], keep)
            within = {p.name: 1.0}
            found.append(
                Variant(f"{p.name} {kind}", p, lambda e=eight: e, p.steps, p.guidance, shipped=True, within=within)
            )
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
    found += [Variant(f"{name} {n} step{'s' * (n > 1)}", p, as_shipped, n, p.guidance) for n in (2, 1)]
    if p.topk is not None:
        found.append(Variant(f"{name} dense", p, dense, steps, 1.0))
    if run is not None:

        def trained(stage: str) -> Callable[[], Pipeline]:
            return lambda: pipeline_of(run, stage, p.task, pipeline.device)

        found.append(Variant(f"{name} bf16", p, trained(shipped_stage(p)), steps, 1.0))
        found.append(Variant(f"{name} teacher", p, trained("teacher"), STEPS["teacher"], GUIDANCE))
    return found


def _attending(pipeline: Pipeline, topk: float | None) -> Pipeline:
    pipeline.parts.transformer.topk = topk
    return Pipeline(replace(pipeline.preset, topk=topk), pipeline.parts)  # a preset with one sets it at every step


def shipped_stage(p: Preset) -> str:
    """Which training stage made the packaged weights."""
    assert p.weights is not None
    stage: str = json.loads((p.weights / PROVENANCE).read_text())["shipped"]
    return stage
