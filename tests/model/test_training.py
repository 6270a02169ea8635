"""Training stages: their clock, their averages, and that a stage goes on from what an earlier one left."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from model.demo import world
from model.training import export, latents, run, teacher, vae
from model.wan.config import preset
from model.wan.vae import WanVAE


def test_the_clock_starts_after_the_step_that_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(run.time, "monotonic", lambda: now)
    budget = run.Budget(10.0, warmup_steps=4, cosine_from=0.5)
    now = 190.0
    assert budget.progress == 0.0
    budget.stepped()
    now = 195.0
    assert budget.progress == 0.5
    now = 300.0
    assert budget.progress == 1.0


def test_learning_rate_warms_up_stays_and_falls_to_nothing() -> None:
    budget = run.Budget(10.0, warmup_steps=4, cosine_from=0.5)
    assert budget.learning_rate(1.0, 0.0) == 0.25
    budget.step = 10
    assert budget.learning_rate(1.0, 0.5) == 1.0
    assert budget.learning_rate(1.0, 0.75) == pytest.approx(0.5)
    assert budget.learning_rate(1.0, 1.0) == pytest.approx(0.0)


def test_the_average_follows_early_and_lags_later() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    ema = run.EMA(module, 0.9)
    nn.init.ones_(module.weight)
    ema.update(step=0)
    assert float(ema.state_dict()["weight"]) == pytest.approx(0.9)  # 1 - 1 / 10: the random start is forgotten
    ema = run.EMA(module, 0.9)
    nn.init.zeros_(module.weight)
    ema.update(step=10_000)
    assert float(ema.state_dict()["weight"]) == pytest.approx(0.9)


def test_a_stage_resumes_from_saved_weights(tmp_path: Path) -> None:
    path = tmp_path / "run" / "x.safetensors"
    module = nn.Linear(4, 4)
    assert run.resume(module, path) is False
    run.save_weights(path, dict(module.named_parameters()), {"steps": "1"})
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]
    other = nn.Linear(4, 4)
    assert run.resume(other, path) is True
    assert torch.equal(other.weight, module.weight.bfloat16().float())


def test_the_teacher_learns_and_its_parts_are_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    p = preset("demo-t2v")
    model = teacher.Teacher(p)
    teacher.initialise(model)
    rng = random.Random(0)
    scenes = [world.random_scene(rng, held=False) for _ in range(2)]
    ids = torch.tensor([latents.token_rows(s, rng, p.transformer.text_len)[0] for s in scenes])
    x0, noise = torch.randn(2, 16, 5, 12, 12), torch.randn(2, 16, 5, 12, 12)
    t, keep = torch.tensor([0.4, 0.9]), torch.tensor([1.0, 0.0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = model(x0, ids, keep, noise, t)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert all(q.grad is None for q in model.parameters())
    run.save_weights(tmp_path / "teacher.safetensors", dict(model.named_parameters()), {})
    shipped = p.weights
    assert shipped is not None
    vae_run = {**load_file(shipped / "vae.safetensors"), "preview": torch.zeros(17, 3).bfloat16()}
    run.save_weights(tmp_path / "vae.safetensors", vae_run, {})
    export.export(tmp_path, tmp_path / "out")
    for part in ("transformer", "text_encoder", "vae", "preview"):
        ours, theirs = (load_file(folder / f"{part}.safetensors") for folder in (tmp_path / "out", shipped))
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_folded_statistics_normalise_latents_and_change_no_frame() -> None:
    torch.manual_seed(0)
    model = WanVAE(preset("demo-t2v").vae).eval()
    video = world.draw([world.random_scene(random.Random(0))], 17, 96)
    with torch.no_grad():
        before = model.decode(model.encode(video))
    vae.fold_latent_statistics(model, torch.device("cpu"), batches=1)
    with torch.no_grad():
        latent = model.encode(video)
        torch.testing.assert_close(model.decode(latent), before, rtol=1e-3, atol=1e-4)
    assert abs(float(latent.mean())) < 0.5
    assert 0.3 < float(latent.std()) < 3
