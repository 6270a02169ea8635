"""Stage 7: the files to ship from a run. `python -m model.training.export --run runs/demo --to FOLDER`

The transformers in TurboDiffusion's 8-bit layout (model.checkpoints.int8), the rest in bf16, and provenance.json:
the code's revision and what every stage's log says of seeds, steps, losses and the probe.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kernels import reference
from model.checkpoints.int8 import CODES, SCALE
from model.training.run import STAGES
from model.training.setup import SHAPES

PROVENANCE = "provenance.json"
TEACHERS = Path(__file__).resolve().parent / "teachers"
DISTILLED = ("student", "sparse")


def quantized(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Large matrices as int8 codes and their scales, everything else as bf16.

    TurboDiffusion quantises those of the blocks, but proj_l; here also the one that makes the modulation, or two
    models would not fit in 16 MB.
    """
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        inside = name.startswith("blocks.") and not layer.endswith("proj_l")
        if (inside or layer == "time_projection.1") and kind == "weight" and value.ndim == 2:
            out[layer + CODES], out[layer + SCALE] = reference.quantize_blocks(value)
        else:
            out[name] = value.to(torch.bfloat16)
    return out


def export(run: Path, folder: Path, teachers: Path, stage: str, revision: str) -> None:
    """Write what `stage` left of each task that the run has, and the teachers of these tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in SHAPES:
        path = run / f"{stage}-{task}.safetensors"
        if not path.exists():
            continue
        model = load_file(path)
        save_file(quantized(_part(model, "transformer.")), folder / f"transformer-{task}.safetensors")
        save_file(_part(model, "text_encoder."), folder / "text_encoder.safetensors")  # one for both
        teacher = run / f"teacher-{task}.safetensors"
        if teacher.exists():  # not to render with, but to go on from (model.training.unpack)
            teachers.mkdir(parents=True, exist_ok=True)
            save_file(quantized(_part(load_file(teacher), "transformer.")), teachers / teacher.name)
    vae = load_file(run / "vae.safetensors")
    save_file({"colour": vae.pop("preview")}, folder / "preview.safetensors")
    save_file(vae, folder / "vae.safetensors")
    told = {"revision": revision, "shipped": stage, "stages": stages(run)}
    (folder / PROVENANCE).write_text(json.dumps(told, indent=1) + "\n")


def stages(run: Path) -> list[dict[str, Any]]:
    """Each training of the run: its settings, its last loss, how far it came, what the probe read."""
    found: list[dict[str, Any]] = []
    for path in (run / f"{stage}.jsonl" for stage in STAGES):
        for line in path.read_text().splitlines() if path.exists() else ():
            said = json.loads(line)
            if "stage" in said and not said["stage"].endswith(" done"):
                found.append(said)
            elif "step" in said:
                found[-1] |= said
            elif "look" in said:
                same = (s for s in reversed(found) if (s["stage"], s.get("task")) == (said["look"], said["task"]))
                next(same)["probe"] = {k: v for k, v in said.items() if k not in ("look", "task") and v is not None}
            elif said["stage"] == "latents done":
                found.append(said | {"stage": "latents"})
            else:
                found[-1] |= {k: v for k, v in said.items() if k != "stage"} | {"progress": 1.0}
    return found


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _revision() -> str:
    said = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return said.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--teachers", type=Path, default=TEACHERS)
    parser.add_argument("--stage", choices=DISTILLED, default="sparse", help="whose weights")
    parser.add_argument("--revision", default=_revision(), help="of the code that trained them")
    args = parser.parse_args()
    export(args.run, args.to, args.teachers, args.stage, args.revision)
    for path in sorted(args.to.glob("*.safetensors")):
        print(f"{path.stat().st_size:>9} {path.name}")


if __name__ == "__main__":
    main()
