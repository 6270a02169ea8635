"""`python -m model.bench load`: seconds and memory to load each preset's shapes, and of one denoise step.

`python -m model.bench dit`: that step alone, kernel by kernel, beside its floors (see model.bench.dit).

Random weights (see random_library), files in the page cache: the floor printed beside the time is what the
bytes take at the host-to-device rate measured here first.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch

from model.bench.random_library import fill_library
from model.events import RenderSpec, Stage, Step
from model.pipeline import Pipeline
from model.wan.config import PRESETS, Preset

GIB = 1 << 30
# A large model beside large activations: without it 5 GiB are lost between blocks (read when CUDA starts).
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def upload_rate(device: str) -> float:
    """Bytes a second from pageable host memory to the device, best of three; nothing is uploaded to a CPU."""
    if device == "cpu":
        return float("inf")
    host = torch.ones(GIB, dtype=torch.uint8)
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        host.to(device)
        _wait(device)
        best = max(best, GIB / (time.perf_counter() - began))
    return best


def measure(preset: Preset, folder: Path, device: str, rate: float, render: bool) -> dict[str, float | str]:
    """One preset: loading seconds, floor, resident bytes; with `render` each stage of a single step."""
    library = fill_library(folder, preset, device)
    files = library.weights(preset)
    size = sum(p.stat().st_size for p in (*files.transformer, *files.low, *files.vae, *files.text_encoder))
    _reset(device)
    began = time.perf_counter()
    pipeline = Pipeline.load(preset, library, device)
    _wait(device)
    row: dict[str, float | str] = {
        "model": preset.name, "GiB": size / GIB, "load s": time.perf_counter() - began, "floor s": size / rate,
        "resident GiB": _resident(device), "load peak GiB": _peak(device),
        "text on host": str(text_on_host(pipeline)),
    }  # fmt: skip
    if render:
        row |= stages(pipeline, device)
        row["render peak GiB"] = _peak(device)
    return row


def text_on_host(pipeline: Pipeline) -> bool:
    """Whether the memory plan left the text encoder off the card."""
    from model.wan.text_encoder import WanText

    text = pipeline.parts.text
    return isinstance(text, WanText) and text.encoder.encoder.shared.weight.device.type != text.device.type


def stages(pipeline: Pipeline, device: str) -> dict[str, float]:
    """Seconds of text, image, one denoise step and decode at the preset's size; the second of two renders."""
    preset = pipeline.preset
    picture = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8) if preset.task == "i2v" else None
    spec = RenderSpec("a red kite", *preset.size, preset.frames, 1, 0, image=picture)
    for prompt in ("a kite", "a red kite"):
        seconds: dict[str, float] = {}
        stage, began = "", time.perf_counter()
        for event in pipeline.render(dataclasses.replace(spec, prompt=prompt)):
            if isinstance(event, Stage | Step):
                _wait(device)
                now = time.perf_counter()
                if stage:
                    seconds[f"{stage} s"] = now - began
                stage, began = event.name if isinstance(event, Stage) else "", now
        _wait(device)
        seconds["decode s"] = time.perf_counter() - began
    return seconds


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _reset(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _resident(device: str) -> float:
    return torch.cuda.memory_allocated() / GIB if device == "cuda" else float("nan")


def _peak(device: str) -> float:
    return torch.cuda.max_memory_allocated() / GIB if device == "cuda" else float("nan")


def main() -> int:
    if sys.argv[1:2] == ["dit"]:
        from model.bench import dit

        return dit.main(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["load", "dit"])
    parser.add_argument("--preset", action="append", help="may be given several times; default: every real one")
    parser.add_argument("--folder", type=Path, default=Path("runs/random"), help="where the random library lies")
    parser.add_argument("--render", action="store_true", help="also one step at the preset's size")
    parser.add_argument("--dense", action="store_true", help="dense attention instead of sparse-linear")
    parser.add_argument("--keep", action="store_true", help="leave the random weights on disk")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rate = upload_rate(device)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    if not args.json:
        print(f"{name}, torch {torch.__version__}, host to device {rate / 1e9:.1f} GB/s")
    for wanted in args.preset or [p.name for p in PRESETS.values() if p.text_encoder == "umt5-xxl"]:
        preset = PRESETS[wanted]
        if args.dense:
            preset = dataclasses.replace(preset, topk=None)
        try:
            row = measure(preset, args.folder, device, rate, args.render)
        except torch.OutOfMemoryError as error:
            row = {"model": wanted, "error": str(error).splitlines()[0]}
        text = "  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{v}" for k, v in row.items())
        print(json.dumps({"device": name, **row}) if args.json else text, flush=True)
        if not args.keep:
            shutil.rmtree(args.folder / wanted, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
