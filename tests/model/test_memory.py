"""What stays on the card: decided from sizes, and the same video either way."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.events import Frames, RenderSpec
from model.memory import Plan, free_bytes, numbers, plan_for
from model.pipeline import Pipeline
from model.wan.text_encoder import WanText
from tests.model import small


def test_the_text_encoder_leaves_a_card_that_is_too_small_and_stays_on_a_larger_one(tmp_path: Path) -> None:
    library = small.install(tmp_path, small.TURBO, lambda f: small.save_turbo(f, quantised=True))
    preset = library.find("small-t2v")
    weights = library.weights(preset)
    plans = [plan_for(preset, weights, free).text_on_host for free in (0, 1 << 30, 2 << 30, 80 << 30)]
    assert plans == [True, True, False, False]


def test_sizes_are_read_from_headers_and_8_bit_codes_count_once(tmp_path: Path) -> None:
    from model.checkpoints import int8, safetensors

    library = small.install(tmp_path, small.TURBO, lambda f: small.save_turbo(f, quantised=True))
    files = library.weights(library.find("small-t2v")).transformer
    expected = sum(p.numel() for p in small.transformer(small.TURBO).state_dict().values())
    assert numbers(int8.expanded(safetensors.open_files(files))) == expected


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
