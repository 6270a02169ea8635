"""How well the demo models follow their prompts: held-out ones are rendered, the frames read. Exit 1 below a gate.

    python -m model.demo.evaluate --quick          # the shipped models, under 8 minutes on 2 cores
    python -m model.demo.evaluate --run runs/demo  # on a GPU: 1,000 prompts, beside teacher and bf16 weights

A gate fails where even the upper end of the 95 % interval is below it. All models see the same prompts and noise.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.demo import probe, trials, variants
from model.demo.trials import Share, Trial
from model.demo.variants import Variant
from model.training.sheets import save_sheet
from model.wan.quantize import DTYPES

# Least share of clips on which the probe must agree with the prompt, of the models as they are shipped.
GATES = {"colour": 0.95, "shape": 0.90, "direction": 0.90}
IMAGE_GATES = {"motion": 0.90}  # the image shows the rest, and the caption says how it goes on
LEAST_PSNR = 25.0  # dB of an image-to-video clip's first frame, in the mean
QUICK, QUICK_IMAGES, FULL = 16, 12, 1000
MANY = 0.25  # of the clips as many again show several things: reported, no gate


@dataclass(frozen=True)
class Judged:
    """What one variant did with the trials."""

    variant: Variant
    trials: Sequence[Trial]
    verdicts: dict[str, list[bool | None]]
    seconds: float  # a clip
    psnr: float | None
    many: dict[str, Share] = field(default_factory=dict[str, Share])

    @property
    def gates(self) -> dict[str, float]:
        return GATES | (IMAGE_GATES if self.variant.preset.task == "i2v" else {})

    def share(self, name: str, language: str | None = None) -> Share:
        chosen = [
            v for v, t in zip(self.verdicts[name], self.trials, strict=True) if language in (None, t.language)
        ]
        return trials.share(chosen)


def judge(variant: Variant, asked: Sequence[Trial], batch: int, shuffle: bool, sheet: Path | None) -> Judged:
    pipeline = variant.pipeline()
    began = time.monotonic()
    clips = list(trials.render(pipeline, asked, variant.steps, variant.guidance, batch))
    seconds = (time.monotonic() - began) / len(clips)
    if sheet:
        video = torch.from_numpy(np.stack(clips[:12])).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        save_sheet(sheet, video, across=2)
    readings: list[probe.Reading] = trials.read(clips)
    against = [*asked[1:], asked[0]] if shuffle else asked
    psnr = None if asked[0].image is None else float(np.mean(trials.first_frame_psnr(asked, clips)))
    return Judged(variant, asked, trials.verdicts(against, readings), seconds, psnr)


def several(variant: Variant, asked: Sequence[Trial], batch: int) -> dict[str, Share]:
    """How often prompts of several things are followed."""
    clips = list(trials.render(variant.pipeline(), asked, variant.steps, variant.guidance, batch))
    return {name: trials.share(verdict) for name, verdict in trials.many_verdicts(asked, clips).items()}


def failures(judged: Sequence[Judged]) -> list[str]:
    """The gates that are missed for certain."""
    found = []
    by_name = {j.variant.name: j for j in judged}
    for one in judged:
        if not one.variant.shipped:
            continue
        for name, gate in one.gates.items():
            share = one.share(name)
            if share.interval[1] < gate:
                found.append(f"{one.variant.name}: {name} {share.value:.1%}, the gate is {gate:.0%}")
            apart, _, most = trials.difference(one.share(name, "zh"), one.share(name, "en"))
            if most < -0.03:
                found.append(f"{one.variant.name}: {name} {apart:+.1%} in Chinese, at most 3 points less")
        if one.psnr is not None and one.psnr < LEAST_PSNR:
            found.append(f"{one.variant.name}: first frame {one.psnr:.1f} dB, the gate is {LEAST_PSNR:.0f} dB")
        for other, points in one.variant.within.items():
            if other not in by_name:
                continue
            for name in one.gates:
                apart, _, most = trials.paired_difference(one.verdicts[name], by_name[other].verdicts[name])
                if most < -points / 100:
                    found.append(
                        f"{one.variant.name}: {name} {apart:+.1%} of {other}, at most {points} points less"
                    )
    return found


def report(one: Judged) -> str:
    parts = [f"{one.variant.name:<28}"]
    for name in one.verdicts:
        low, high = (share := one.share(name)).interval
        parts.append(f"{name} {share.value:.1%} ({low:.1%} .. {high:.1%})")
    for language in ("en", "zh"):
        worst = min(one.share(name, language).value for name in one.gates)
        parts.append(f"{language} at least {worst:.1%}")
    if one.psnr is not None:
        parts.append(f"first frame {one.psnr:.1f} dB")
    parts += [f"{name} {share.value:.1%} of {share.count}" for name, share in one.many.items()]
    return "  ".join([*parts, f"{len(one.trials)} clips, {one.seconds:.2f} s each"])


def as_json(one: Judged) -> dict[str, Any]:
    found = {name: one.share(name) for name in one.verdicts}
    return {
        "variant": one.variant.name, "count": len(one.trials), "seconds_per_clip": round(one.seconds, 3),
        "first_frame_psnr": one.psnr,
        "several": {n: {"value": s.value, "interval": s.interval, "count": s.count} for n, s in one.many.items()},
        "shares": {n: {"value": s.value, "interval": s.interval, "count": s.count} for n, s in found.items()},
        "languages": {
            language: {n: one.share(n, language).value for n in one.verdicts} for language in ("en", "zh")
        },
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the shipped models only, few clips")
    parser.add_argument("--count", type=int, help=f"clips a variant; {QUICK} with --quick, else {FULL}")
    parser.add_argument("--run", type=Path, help="a training run: its teacher and bf16 weights beside the shipped")
    parser.add_argument("--only", help="variants whose name contains this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, help="clips at once; 1 on a CPU, 32 on a GPU")
    parser.add_argument("--shuffle", action="store_true", help="judge each clip by another's prompt: chance")
    parser.add_argument("--zero-block", type=int, help="without the weights of this block: must miss the gates")
    parser.add_argument("--linears", nargs="*", choices=DTYPES, default=[], help="beside them: linears in 8 bits")
    parser.add_argument("--keep", nargs="*", default=[], help="linears not in 8 bits, by pattern: '*.ffn.2'")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sheet", type=Path, help="folder: 12 clips of each shipped model as rows of frames")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    chosen = variants.all_variants(
        args.device, None if args.quick else args.run, args.zero_block, args.linears, args.keep
    )
    if args.quick:
        chosen = [v for v in chosen if v.shipped]
    chosen = [v for v in chosen if args.only is None or args.only in v.name]
    if not chosen:
        parser.error(f"no variant is called {args.only!r}")
    batch = args.batch or (1 if args.device == "cpu" else 32)
    judged = []
    for variant in chosen:
        side = variant.preset.size[0] if variant.preset.task == "i2v" else None
        count = args.count or ((QUICK if side is None else QUICK_IMAGES) if args.quick else FULL)
        asked = trials.held_out_trials(count, args.seed, side)
        sheet = args.sheet / f"{variant.name}.png" if args.sheet and variant.shipped else None
        one = judge(variant, asked, batch, args.shuffle, sheet)
        if variant.shipped and not args.shuffle:
            many = trials.held_out_many(round(MANY * count), args.seed, side)
            one = replace(one, many=several(variant, many, batch))
        judged.append(one)
        if not args.json:
            print(report(judged[-1]), flush=True)
    missed = failures(judged)
    if args.json:
        print(json.dumps({"variants": [as_json(j) for j in judged], "failed": missed}))
    else:
        print("\n".join(missed) or "every gate is met, or not missed for certain")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
