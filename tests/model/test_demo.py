"""The demo model: its words, its world, a probe that can fail, and clips that follow held-out prompts."""

import random
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from kernels import switch
from model.demo import captions, evaluate, probe, trials, variants, world
from model.demo.tokenizer import KNOWN, VOCABULARY_SIZE, tokenize
from model.events import RenderSpec
from model.pipeline import Pipeline
from model.wan.config import preset

TEXT_LEN = preset("demo-t2v").transformer.text_len


def test_token_ids_are_those_the_shipped_weights_learned() -> None:
    """One id off by one and every later word means another."""
    assert tokenize("A red circle, moving from left to right!", TEXT_LEN).ids == [2, 3, 20, 28, 43, 48, 50, 49, 51]
    assert tokenize("红色圆形向右移动", TEXT_LEN).ids == [2, 87, 95, 96, 97, 118, 117, 121, 122]


def test_every_caption_is_of_known_words_and_fits() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        scene = world.any_scene(rng)
        tokens = tokenize(captions.caption(scene, rng), TEXT_LEN)
        assert tokens.unknown == ()
        assert max(tokens.ids) < VOCABULARY_SIZE


def test_unknown_words_are_named_once() -> None:
    assert tokenize("a red dragon eats a dragon 龙", TEXT_LEN).unknown == ("dragon", "eats", "龙")


def test_what_people_are_told_it_knows_is_what_it_was_trained_on() -> None:
    assert KNOWN["shapes"] == world.SHAPES
    assert set(KNOWN["colours"]) == set(world.COLOURS)
    assert {m.removeprefix("moving ") for m in KNOWN["motions"]} == set(world.MOTIONS)
    assert set(KNOWN["backgrounds"]) == set(world.BACKGROUNDS)
    assert KNOWN["sizes"] == world.SIZES
    assert tokenize(" ".join(" ".join(things) for things in KNOWN.values()), 64).unknown == ()


def test_held_out_combinations_are_a_tenth_and_never_drawn_for_training() -> None:
    held = {
        (s, c, m) for s in world.SHAPES for c in world.COLOURS for m in world.MOTIONS if world.held_out(s, c, m)
    }
    assert 25 <= len(held) <= 50
    rng = random.Random(1)
    assert all(world.random_scene(rng, held=False).combination not in held for _ in range(500))
    assert all(t.scene.combination in held for t in trials.held_out_trials(50))


def drawn(scene: world.Scene) -> np.ndarray:
    clip = world.draw([scene], 17, 96)[0]
    return ((clip + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()


def test_the_probe_reads_drawn_clips() -> None:
    rng = random.Random(2)
    for scene in (world.random_scene(rng) for _ in range(40)):
        expected = probe.Reading(scene.colour, scene.shape, scene.motion, scene.background)
        assert probe.read(drawn(scene)) == expected


def test_the_probe_finds_nothing_where_nothing_is() -> None:
    plain = np.full((17, 96, 96, 3), 128, np.uint8)
    assert probe.read(plain) == probe.Reading("unclear", "unclear", "unclear", "grey")


def test_the_probe_tells_several_things_apart() -> None:
    asked = trials.held_out_many(24, seed=3)
    found = trials.many_verdicts(asked, [drawn(t.scene) for t in asked])
    assert {name: (s.right, s.count) for name, s in ((n, trials.share(v)) for n, v in found.items())} == {
        "count": (12, 12), "two objects": (12, 12),
    }  # fmt: skip
    groups, pairs = asked[::2], asked[1::2]
    mistaken = [drawn(replace(t.scene, count=5 - t.scene.count)) for t in groups]
    mistaken += [drawn(replace(t.scene, second=None)) for t in pairs]
    found = trials.many_verdicts([*groups, *pairs], mistaken)
    assert [trials.share(v).right for v in found.values()] == [0, 0]


def test_what_is_connected_is_one_part_from_left_to_right() -> None:
    mask = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1], [1, 0, 0, 1]]).bool()
    assert [int(part.sum()) for part in probe.components(mask)] == [2, 1, 4]
    assert probe.components(torch.zeros(3, 3).bool()) == []


@pytest.fixture(scope="module")
def trials_and_readings() -> tuple[list[trials.Trial], list[probe.Reading]]:
    p = preset("demo-t2v")
    asked = trials.held_out_trials(4, seed=1)
    return asked, trials.read(list(trials.render(Pipeline.load(p), asked, p.steps, p.guidance)))


def test_clips_follow_prompts_whose_combination_training_never_saw(trials_and_readings) -> None:
    found = trials.shares(*trials_and_readings)
    for name, gate in evaluate.GATES.items():
        assert found[name].interval[1] >= gate, found
        assert found[name].value >= gate - 0.15, found


def test_an_image_goes_on_as_its_caption_says() -> None:
    p = preset("demo-i2v")
    asked = trials.held_out_trials(2, seed=6, side=p.size[0])  # two directions
    clips = list(trials.render(Pipeline.load(p), asked, p.steps, p.guidance))
    found = trials.shares(asked, trials.read(clips))
    assert min(found[name].value for name in ("colour", "shape", "background")) == 1.0, found
    assert min(trials.first_frame_psnr(asked, clips)) > evaluate.LEAST_PSNR
    assert max(trials.first_frame_psnr(asked, [*clips[1:], clips[0]])) < evaluate.LEAST_PSNR


def test_shuffled_prompts_score_far_below_the_gates(trials_and_readings) -> None:
    asked, readings = trials_and_readings
    found = trials.shares([*asked[1:], asked[0]], readings)
    for name, gate in evaluate.GATES.items():
        assert found[name].interval[1] < gate, found


def test_a_model_without_one_block_misses_the_gates() -> None:
    """The first block: what the later ones are told of the caption's words hangs on it."""
    p = preset("demo-t2v")
    pipeline = Pipeline.load(p)
    variants.zeroed(pipeline, 0)
    asked = trials.held_out_trials(2, seed=2)
    variant = variants.Variant(p.name, p, lambda: pipeline, 4, p.guidance, shipped=True)
    assert evaluate.failures([evaluate.judge(variant, asked, 2, False, None)])


def test_the_dense_variant_attends_densely(monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = Mock(side_effect=switch.sparse_linear_attention)
    monkeypatch.setattr(switch, "sparse_linear_attention", sparse)
    found = {v.name: v for v in variants.all_variants("cpu", None)}
    trial = trials.held_out_trials(1)[0]
    calls: list[int] = []
    for name in ("demo-t2v dense", "demo-t2v", "demo-t2v dense"):
        pipeline = found[name].pipeline()
        p = pipeline.preset
        spec = RenderSpec(trial.prompt, *p.size, p.frames, 1, trial.seed, p.guidance)
        list(pipeline.denoise(pipeline.noise(spec), pipeline.text(spec), spec))
        calls.append(sparse.call_count)
    layers = found["demo-t2v"].preset.transformer.layers
    assert calls == [0, layers, layers]


def judged(name: str, right: list[bool | None], shipped: bool = False, **within: float) -> evaluate.Judged:
    p = preset("demo-t2v")
    asked = [replace(t, language="en") for t in trials.held_out_trials(len(right))]
    variant = variants.Variant(name, p, lambda: Pipeline.load(p), 4, 1.0, shipped, within)
    every = {n: list(right) for n in ("colour", "shape", "motion", "background", "direction")}
    return evaluate.Judged(variant, asked, every, 1.0, None)


def test_gates_fail_only_where_chance_cannot_explain_it() -> None:
    few, many = [True] * 8 + [False], [True] * 850 + [False] * 150
    assert evaluate.failures([judged("small", few, shipped=True)]) == []
    assert evaluate.failures([judged("small", many, shipped=True)]) == [
        "small: colour 85.0%, the gate is 95%",
        "small: shape 85.0%, the gate is 90%",
        "small: direction 85.0%, the gate is 90%",
    ]
    worse, better = [True] * 960 + [False] * 40, [True] * 1000
    assert evaluate.failures([judged("small", worse, True, other=2.0), judged("other", better)]) == [
        f"small: {name} -4.0% of other, at most 2.0 points less" for name in evaluate.GATES
    ]
    assert evaluate.failures([judged("small", worse, True, other=5.0), judged("other", better)]) == []


def test_image_to_video_is_held_to_the_captions_motion_and_its_first_frame() -> None:
    def image(motion: list[bool | None], psnr: float) -> evaluate.Judged:
        one = judged("small", [True] * len(motion), shipped=True)
        variant = replace(one.variant, preset=preset("demo-i2v"))
        return replace(one, variant=variant, verdicts=one.verdicts | {"motion": motion}, psnr=psnr)

    assert evaluate.failures([image([True] * 300, 30.0)]) == []
    assert evaluate.failures([image([True] * 200 + [False] * 100, 24.0)]) == [
        "small: motion 66.7%, the gate is 90%",
        "small: first frame 24.0 dB, the gate is 25 dB",
    ]


def test_intervals_are_wilsons_and_pairs_are_compared_as_pairs() -> None:
    low, high = trials.Share(45, 50).interval
    assert (low, high) == pytest.approx((0.786, 0.957), abs=1e-3)  # Brown, Cai & DasGupta 2001's formula
    assert trials.Share(0, 0).interval == (0.0, 1.0)
    value, low, high = trials.paired_difference([True, True, None, False], [True, False, True, False])
    assert value == pytest.approx(1 / 3)
    assert low < value < high
    value, low, high = trials.difference(trials.Share(56, 70), trials.Share(48, 80))
    assert (value, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)  # Newcombe 1998, table II (a)


def test_a_trials_image_is_the_first_frame_of_its_clip() -> None:
    (trial,) = trials.held_out_trials(1, seed=4, side=96)
    assert trial.image is not None
    clip = drawn(trial.scene)
    assert np.array_equal(trial.image, clip[0])
    assert trials.first_frame_psnr([trial], [clip])[0] > 100
    assert trials.first_frame_psnr([trial], [clip[::-1]])[0] < 40
