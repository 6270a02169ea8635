"""Stage 7: the files to ship from a run. `python -m model.training.export --run runs/demo --to FOLDER`

transformer-t2v and -i2v in TurboDiffusion's 8-bit layout (model.checkpoints.int8), the rest in bf16.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kernels import reference
from model.checkpoints.int8 import CODES, SCALE
from model.training.setup import SHAPES


def quantized(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices of the blocks, but proj_l, as int8 codes and their scales; everything else as bf16."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        if name.startswith("blocks.") and kind == "weight" and value.ndim == 2 and not layer.endswith("proj_l"):
            out[layer + CODES], out[layer + SCALE] = reference.quantize_blocks(value)
        else:
            out[name] = value.to(torch.bfloat16)
    return out


def export(run: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for task in SHAPES:
        model = load_file(run / f"sparse-{task}.safetensors")
        save_file(quantized(_part(model, "transformer.")), folder / f"transformer-{task}.safetensors")
        if task == "t2v":
            save_file(_part(model, "text_encoder."), folder / "text_encoder.safetensors")
    vae = load_file(run / "vae.safetensors")
    save_file({"colour": vae.pop("preview")}, folder / "preview.safetensors")
    save_file(vae, folder / "vae.safetensors")


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    export(args.run, args.to)
    for path in sorted(args.to.glob("*.safetensors")):
        print(f"{path.stat().st_size:>9} {path.name}")


if __name__ == "__main__":
    main()
