"""What the probe reads off a rendered clip survives twenty MP4s. TURBOFARM_CLIPS=50 judges the README's fifty."""

import os
from pathlib import Path

import numpy as np
import pytest

from farm.media.check import decode
from farm.media.encoder import Encoder
from model.demo import probe, trials
from model.pipeline import Pipeline
from model.wan.config import preset

CLIPS = int(os.environ.get("TURBOFARM_CLIPS", "1"))
ROUND_TRIPS = 20


def round_trip(frames: np.ndarray, path: Path) -> np.ndarray:
    height, width = frames.shape[1:3]
    encoder = Encoder(path, (width, height), fps=12)
    encoder.write(frames)
    encoder.close({})
    return decode(path)


@pytest.mark.timeout(900)
def test_twenty_round_trips_change_no_verdict(tmp_path: Path) -> None:
    p = preset("demo-t2v")
    pipeline = Pipeline.load(p)
    asked = trials.held_out_trials(CLIPS)
    before, after = [], []
    for trial, frames in zip(asked, trials.render(pipeline, asked, p.steps, p.guidance), strict=True):
        before.append(probe.read(frames))
        for n in range(ROUND_TRIPS):
            frames = round_trip(frames, tmp_path / f"{trial.seed}-{n}.mp4")
        after.append(probe.read(frames))
    print(trials.shares(asked, after))
    assert after == before
