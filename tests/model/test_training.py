"""Training stages: their clock, their averages, and that a stage goes on from what an earlier one left."""

import itertools
import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from model import sampler
from model.checkpoints import int8, safetensors
from model.checkpoints.fill import fill
from model.demo import world
from model.training import (
    carry,
    denoiser,
    export,
    guidance,
    latents,
    run,
    setup,
    sparse,
    student,
    teacher,
    unpack,
    vae,
)
from model.training.optimizer import Optimizers
from model.wan.conditioning import image_condition
from model.wan.config import TransformerConfig, preset
from model.wan.transformer import WanTransformer
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


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Every stage at a size that a CPU trains in a blink: the folder of a run with a VAE and a pool of 2 clips."""
    shapes = TransformerConfig(dim=64, ffn_dim=64, heads=1, layers=1, text_dim=128, text_len=48, sla=True)
    for task, channels in (("t2v", 16), ("i2v", 36)):
        monkeypatch.setitem(setup.SHAPES, task, replace(shapes, in_channels=channels))
    monkeypatch.setitem(setup.CLIPS, "whole", setup.Clips(side=32, frames=5, batch=4, shift=3.0))
    torch.manual_seed(0)
    shipped = preset("demo-t2v").weights
    assert shipped is not None
    copy = {**load_file(shipped / "vae.safetensors"), "preview": torch.zeros(17, 3).bfloat16()}
    run.save_weights(tmp_path / "vae.safetensors", copy, {})
    stage(latents, tmp_path, "--clips", "whole", "--count", "2", "--images")
    return tmp_path


def test_what_is_carried_leaves_alone_what_only_image_to_video_has() -> None:
    of = {"w": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([0.0])}
    after = {"w": torch.tensor([[1.5, 2.0]]), "b": torch.tensor([-1.0])}
    onto = {"w": torch.tensor([[2.0, 2.0, 7.0]]), "b": torch.tensor([3.0])}
    out = carry.carried(of, after, onto)
    assert {k: v.tolist() for k, v in out.items()} == {"w": [[2.5, 2.0, 7.0]], "b": [2.0]}
    assert onto["w"].tolist() == [[2.0, 2.0, 7.0]]


def stage(module: ModuleType, folder: Path, *arguments: str) -> None:
    before, sys.argv = sys.argv, ["stage", "--out", str(folder), *arguments]
    try:
        module.main()
    finally:
        sys.argv = before


QUICK = ("--seconds", "0.5", "--batch", "4", "--no-compile", "--look", "1")


def test_every_stage_builds_on_the_one_before_until_both_models_can_be_shipped(tiny: Path) -> None:
    stage(teacher, tiny, *QUICK)
    stage(teacher, tiny, "--task", "i2v", "--init", str(tiny / "teacher-t2v.safetensors"), *QUICK)
    for module in (guidance, student, sparse):
        stage(module, tiny, "--task", "t2v", *QUICK)
    for name in ("student", "sparse"):
        stage(carry, tiny, "--stage", name, "--look", "1")
    before = load_file(tiny / "sparse-i2v.safetensors")
    stage(sparse, tiny, "--task", "i2v", *QUICK)
    assert any((value != before[key]).any() for key, value in load_file(tiny / "sparse-i2v.safetensors").items())
    export.export(tiny, tiny / "out", tiny / "teachers", "sparse", "abc")
    assert not unpack.unpack(tiny / "out", tiny / "teachers", tiny), "what a run has is left alone"
    names = {p.name for p in unpack.unpack(tiny / "out", tiny / "teachers", tiny / "again")}
    assert names == {
        *(f"{s}-{t}.safetensors" for s in ("sparse", "teacher") for t in ("t2v", "i2v")), "vae.safetensors"
    }  # fmt: skip
    for name in names:
        before, after = load_file(tiny / name), load_file(tiny / "again" / name)
        assert before.keys() == after.keys()
        for key, value in before.items():
            off = (after[key].float() - value.float()).abs().max()
            assert off <= value.float().abs().max() / 100, (name, key)
    told = json.loads((tiny / "out" / "provenance.json").read_text())
    assert (told["revision"], told["shipped"]) == ("abc", "sparse")
    assert [s["by"] for s in told["stages"] if "by" in s] == [
        f"{name}-t2v - teacher-t2v + teacher-i2v" for name in ("student", "sparse")
    ]
    said = {(s["stage"], s.get("task")): s for s in told["stages"]}
    assert [*said] == [
        ("latents", None), ("teacher", "t2v"), ("teacher", "i2v"), ("guided", "t2v"),
        *((stage, task) for stage in ("student", "sparse") for task in ("t2v", "i2v")),
    ]  # fmt: skip
    assert said["latents", None]["clips"] == 2
    for (name, task), one in said.items():
        if "by" in one:
            assert one["probe"]["first_frame_psnr"] > 0
        elif name != "latents":
            assert one["seed"] > 0
            assert one["steps"] > 0
            assert one["progress"] == 1.0
            assert 0 <= one["probe"]["colour"] <= 1
            assert ("first_frame_psnr" in one["probe"]) == (task == "i2v")
            assert (tiny / f"{name}-{task}.png").exists()
    for task in ("t2v", "i2v"):
        trained = load_file(tiny / f"sparse-{task}.safetensors")
        model = WanTransformer(setup.SHAPES[task], setup.TOPK)
        fill(model, int8.expanded(safetensors.open_files([tiny / "out" / f"transformer-{task}.safetensors"])),
             torch.float32, "cpu")  # fmt: skip
        for name, value in model.named_parameters():
            exact = trained[f"transformer.{name}"].float()
            assert (value - exact).abs().max() <= exact.abs().max() / 128, name
        # One text encoder reads for both, so nothing after the first teacher may have changed it.
        first = load_file(tiny / "teacher-t2v.safetensors")
        assert all(torch.equal(v, trained[k]) for k, v in first.items() if k.startswith("text_encoder."))
        assert not torch.equal(first["transformer.head.head.weight"], trained["transformer.head.head.weight"])


def test_a_stage_that_comes_too_early_says_what_is_missing(tiny: Path) -> None:
    with pytest.raises(SystemExit, match=r"guided-t2v.safetensors is missing: run the stage that makes it"):
        stage(student, tiny, *QUICK)


def test_the_teacher_learns(tiny: Path) -> None:
    model = denoiser.Denoiser(setup.SHAPES["t2v"])
    denoiser.initialise(model)
    pool = denoiser.Pool(tiny / "pool-whole.safetensors", False, torch.device("cpu"))
    optimizers = Optimizers(model, lr=2e-3, muon=True)
    losses = []
    for _ in range(40):
        torch.manual_seed(1)  # the same noise: what falls is not luck
        loss = teacher.flow_loss(model, pool, setup.CLIPS["whole"], 4)
        loss.backward()
        optimizers.step(2e-3)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert all(q.grad is None for q in model.parameters())


def test_the_wider_model_begins_as_the_one_that_knew_no_image(tiny: Path) -> None:
    stage(teacher, tiny, *QUICK)
    narrow = denoiser.loaded(setup.SHAPES["t2v"], tiny / "teacher-t2v.safetensors", torch.device("cpu"))
    wide = denoiser.Denoiser(setup.SHAPES["i2v"])
    denoiser.resume_wider(wide, tiny / "teacher-t2v.safetensors")
    pool = denoiser.Pool(tiny / "pool-whole.safetensors", True, torch.device("cpu"))
    drawn = pool.draw(3)
    t, text = torch.tensor([0.2, 0.5, 0.9]), narrow.text(drawn.ids)
    torch.testing.assert_close(wide(drawn.x0, t, text, drawn.condition), narrow(drawn.x0, t, text))


def test_training_hears_of_the_image_as_rendering_does(tiny: Path) -> None:
    pool = denoiser.Pool(tiny / "pool-whole.safetensors", True, torch.device("cpu"))
    vae_model = latents.load_vae(tiny / "vae.safetensors", torch.device("cpu"))
    scene = world.any_scene(random.Random(7), held=False)  # the pool's first clip
    image = world.draw([scene], 5, 32)[0, :, 0]
    with torch.no_grad():
        expected = image_condition(vae_model, image, 5)
    rows = torch.tensor([0])
    found = pool._condition(rows, pool.latents[rows].float())
    assert found is not None
    assert (found - expected).abs().max() < 0.1  # bf16 convolutions


class Straight(denoiser.Denoiser):
    """A velocity that is the same everywhere on a path: its ODE ends at x - t v, in any number of steps."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.full_like(x, 0.25)


def test_the_endpoint_is_where_the_ode_ends_and_the_path_is_the_samplers(tiny: Path) -> None:
    straight = Straight(setup.SHAPES["t2v"])
    pool = denoiser.Pool(tiny / "pool-whole.safetensors", False, torch.device("cpu"))
    drawn = pool.draw(2)
    text = torch.zeros(2, 48, 128)
    for t in student.TIMES[:-1]:
        end = student.endpoint(straight, drawn.x0, t, text, drawn, shift=3.0)
        torch.testing.assert_close(end, drawn.x0 - 0.25 * t)
    torch.manual_seed(3)
    seen = student.noisy(straight, drawn, 2, text, on_path=True)
    torch.manual_seed(3)
    noise = [torch.randn_like(drawn.x0) for _ in range(3)]
    steps = sampler.rcm(
        lambda x, t: torch.full_like(x, 0.25), noise[0], 4, setup.SIGMA_MAX, iter(noise[1:]).__next__
    )
    torch.testing.assert_close(seen, list(itertools.islice(steps, 2))[-1].latent.float())
    torch.manual_seed(3)
    first = student.noisy(straight, drawn, 0, text, on_path=True)
    torch.testing.assert_close(first, noise[0] * student.TIMES[0])


def test_folded_statistics_normalise_latents_and_change_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = WanVAE(preset("demo-t2v").vae).eval()
    video = world.draw([world.random_scene(random.Random(0))], 17, 96)
    monkeypatch.setattr(vae, "CLIP", setup.Clips(side=48, frames=9, batch=1, shift=1.0))
    with torch.no_grad():
        before = model.decode(model.encode(video))
    vae.fold_latent_statistics(model, torch.device("cpu"), batches=1)
    with torch.no_grad():
        latent = model.encode(video)
        torch.testing.assert_close(model.decode(latent), before, rtol=1e-3, atol=1e-4)
    assert abs(float(latent.mean())) < 0.5
    assert 0.3 < float(latent.std()) < 3
