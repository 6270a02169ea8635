"""The shipped weights as a run that can be gone on with. `python -m model.training.unpack --out runs/demo`

teacher-TASK and the shipped stage of each task in bf16, and the VAE. What 8 bits took away, training gives back
within its warm-up.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from model.checkpoints import int8, safetensors
from model.training.export import PROVENANCE, TEACHERS
from model.training.run import save_weights
from model.training.setup import SHAPES
from model.wan.config import demo


def unpack(weights: Path, teachers: Path, run: Path) -> list[Path]:
    """Write the files of a run; those it has already stay as they are. Returns what was written."""
    stage = json.loads((weights / PROVENANCE).read_text())["shipped"]
    text = {f"text_encoder.{k}": v for k, v in load_file(weights / "text_encoder.safetensors").items()}
    found: dict[str, dict[str, Tensor]] = {}
    for task in SHAPES:
        for name, path in (
            (f"{stage}-{task}", weights / f"transformer-{task}.safetensors"),
            (f"teacher-{task}", teachers / f"teacher-{task}.safetensors"),
        ):
            if path.exists():
                entries = int8.expanded(safetensors.open_files([path]))
                state = {k: entry.read("cpu").to(torch.bfloat16) for k, entry in entries.items()}
                found[name] = {f"transformer.{k}": v for k, v in state.items()} | text
    colour = load_file(weights / "preview.safetensors")["colour"]
    found["vae"] = load_file(weights / "vae.safetensors") | {"preview": colour}
    written = []
    for name, state in found.items():
        path = run / f"{name}.safetensors"
        if not path.exists():
            save_weights(path, state, {"from": "shipped weights"})
            written.append(path)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    weights = demo("t2v").weights
    assert weights is not None
    for path in unpack(weights, TEACHERS, args.out):
        print(path)


if __name__ == "__main__":
    main()
