"""The demo model: its words, its world, a probe that can fail, and clips that follow held-out prompts."""

import random

import numpy as np
import pytest

from model.demo import captions, evaluate, probe, world
from model.demo.tokenizer import VOCABULARY_SIZE, tokenize
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
        scene = world.random_scene(rng)
        tokens = tokenize(captions.caption(scene, rng), TEXT_LEN)
        assert tokens.unknown == ()
        assert max(tokens.ids) < VOCABULARY_SIZE


def test_unknown_words_are_named_once() -> None:
    assert tokenize("a red dragon eats a dragon 龙", TEXT_LEN).unknown == ("dragon", "eats", "龙")


def test_held_out_combinations_are_a_tenth_and_never_drawn_for_training() -> None:
    held = {
        (s, c, m) for s in world.SHAPES for c in world.COLOURS for m in world.MOTIONS if world.held_out(s, c, m)
    }
    assert 25 <= len(held) <= 50
    rng = random.Random(1)
    assert all(world.random_scene(rng, held=False).combination not in held for _ in range(500))
    assert all(t.scene.combination in held for t in evaluate.held_out_trials(50))


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


@pytest.fixture(scope="module")
def trials_and_readings() -> tuple[list[evaluate.Trial], list[probe.Reading]]:
    p = preset("demo-t2v")
    pipeline = Pipeline.load(p)
    trials = evaluate.held_out_trials(16, seed=1)
    return trials, [probe.read(evaluate.render(pipeline, t, p.steps, p.guidance)) for t in trials]


def test_clips_follow_prompts_whose_combination_training_never_saw(trials_and_readings) -> None:
    trials, readings = trials_and_readings
    shares = evaluate.score(trials, readings)
    for name, gate in evaluate.GATES.items():
        assert evaluate.interval(shares[name], len(trials))[1] >= gate, shares
        assert shares[name] >= gate - 0.1, shares


def test_shuffled_prompts_score_far_below_the_gates(trials_and_readings) -> None:
    trials, readings = trials_and_readings
    shares = evaluate.score([*trials[1:], trials[0]], readings)
    for name, gate in evaluate.GATES.items():
        assert shares[name] < gate - 0.2, shares
