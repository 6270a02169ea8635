"""How well the demo model follows its prompts: renders held-out prompts and reads the frames. Exit 1 below a gate.

`python -m model.demo.evaluate [--count 50] [--shuffle] [--json] [--sheet sheet.png]`
"""

import argparse
import json
import math
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model.demo import captions, probe, world
from model.events import Frames, RenderSpec
from model.pipeline import Pipeline
from model.training.sheets import save_sheet
from model.wan.config import preset

# Least share of clips on which the probe must agree with the prompt.
GATES = {"colour": 0.85, "motion": 0.75, "shape": 0.70}


@dataclass(frozen=True)
class Trial:
    """A held-out scene, the words for it, and its seed."""

    scene: world.Scene
    prompt: str
    seed: int


def held_out_trials(count: int, seed: int = 0) -> list[Trial]:
    """Prompts whose combination of shape, colour and motion training never saw; English and Chinese in turn."""
    rng = random.Random(seed)
    trials = []
    for i in range(count):
        scene = world.random_scene(rng, held=True)
        prompt = captions.caption(scene, rng, language=("en", "zh")[i % 2], full=True)
        trials.append(Trial(scene, prompt, 1000 * seed + i))
    return trials


def render(pipeline: Pipeline, trial: Trial, steps: int, guidance: float) -> probe.Frames:
    """The trial's clip: uint8 [t, h, w, 3]."""
    p = pipeline.preset
    spec = RenderSpec(trial.prompt, *p.size, p.frames, steps, trial.seed, guidance)
    return np.concatenate([e.frames for e in pipeline.render(spec) if isinstance(e, Frames)])


def score(trials: list[Trial], readings: list[probe.Reading]) -> dict[str, float]:
    """Share of clips whose reading agrees with the trial's scene, by property."""
    properties = ("colour", "shape", "motion", "background")
    return {
        name: sum(getattr(t.scene, name) == getattr(r, name) for t, r in zip(trials, readings, strict=True))
        / len(trials)
        for name in properties
    }


def interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half


def main() -> int:
    p = preset("demo-t2v")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--steps", type=int, default=p.steps)
    parser.add_argument("--guidance", type=float, default=p.guidance)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--shuffle", action="store_true", help="judge each clip by another's prompt: must be at chance"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sheet", type=Path, help="write the first 12 clips as rows of frames")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    pipeline = Pipeline.load(p, device=args.device)
    trials = held_out_trials(args.count, args.seed)
    started = time.monotonic()
    clips = [render(pipeline, t, args.steps, args.guidance) for t in trials]
    seconds = (time.monotonic() - started) / len(clips)
    if args.sheet:
        video = torch.from_numpy(np.stack(clips[:12])).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        save_sheet(args.sheet, video, across=2)
    readings = [probe.read(c) for c in clips]
    judged = [*trials[1:], trials[0]] if args.shuffle else trials
    shares = score(judged, readings)
    failed = [name for name, gate in GATES.items() if shares[name] < gate]
    if args.json:
        print(json.dumps({"count": args.count, "seconds_per_clip": round(seconds, 3), **shares, "failed": failed}))
    else:
        for name, share in shares.items():
            low, high = interval(share, args.count)
            gate = f"   gate {GATES[name]:.0%}" if name in GATES else ""
            print(f"{name:<11} {share:6.1%}   95% {low:.1%} .. {high:.1%}{gate}")
        print(
            f"{args.count} held-out prompts, {args.steps} steps, guidance {args.guidance:g}, {seconds:.2f} s a clip"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
