"""Stage 5: the shipped files from a run's checkpoints. `python -m model.training.export --run runs/demo`"""

import argparse
from pathlib import Path

from safetensors.torch import load_file, save_file

from model.wan.config import preset


def export(run: Path, folder: Path) -> None:
    """Write transformer, text_encoder, vae and preview .safetensors (bf16) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    teacher = load_file(run / "teacher.safetensors")
    for part in ("transformer", "text_encoder"):
        state = {k.removeprefix(part + "."): v for k, v in teacher.items() if k.startswith(part + ".")}
        save_file(state, folder / f"{part}.safetensors")
    vae = load_file(run / "vae.safetensors")
    save_file({"colour": vae.pop("preview")}, folder / "preview.safetensors")
    save_file(vae, folder / "vae.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    args = parser.parse_args()
    folder = preset("demo-t2v").weights
    assert folder is not None
    export(args.run, folder)
    for path in sorted(folder.glob("*.safetensors")):
        print(f"{path.stat().st_size:>9} {path.name}")


if __name__ == "__main__":
    main()
