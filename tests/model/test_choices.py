"""What a distilled, sparse model lets people choose for one video: how much it looks at, and fresh noise."""

from types import SimpleNamespace

import pytest
import torch

from model.events import RenderSpec
from model.pipeline import Pipeline
from tests.model.small import TURBO, transformer

SPEC = RenderSpec("a kite", 64, 64, 9, steps=2, seed=5)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    model = transformer(TURBO, seed=4)
    parts = SimpleNamespace(
        transformer=model, low=None, preview=torch.zeros(17, 3), digest="d", vae=None, text=None
    )
    return Pipeline(TURBO, parts)  # type: ignore[arg-type]


def latent(pipeline: Pipeline, **choices: object) -> torch.Tensor:
    spec = RenderSpec(**{**SPEC.__dict__, **choices})
    text = torch.randn(1, TURBO.transformer.text_len, TURBO.transformer.text_dim, generator=torch.manual_seed(1))
    return list(pipeline.denoise(pipeline.noise(spec), text, spec))[-1].latent


def test_the_ode_form_draws_no_fresh_noise(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    sde, ode = latent(pipeline), latent(pipeline, ode=True)
    assert not torch.equal(sde, ode)
    real, drawn = torch.randn, []
    monkeypatch.setattr(torch, "randn", lambda *a, **k: drawn.append(a) or real(*a, **k))
    latent(pipeline, ode=True)
    assert len(drawn) == 2, "the text of this test and the noise to begin with"


def test_a_quality_holds_for_one_video_alone(pipeline: Pipeline) -> None:
    latent(pipeline, topk=0.9)
    assert pipeline.expert(0.0).topk == 0.9
    latent(pipeline)
    assert pipeline.expert(0.0).topk == TURBO.topk, "the next one looks as usual"
