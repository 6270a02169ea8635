"""What distilling taught text-to-video, for image-to-video. `python -m model.training.carry --stage student`

Task arithmetic (Ilharco et al. 2023): what a stage changed in the text-to-video model is added to the
image-to-video teacher, which began as the same text-to-video teacher. No training; the stages may go on from it.
"""

import argparse
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from model.training.look import look
from model.training.run import Log, save_weights

CARRIED = ("guided", "student", "sparse")


def carried(of: dict[str, Tensor], after: dict[str, Tensor], onto: dict[str, Tensor]) -> dict[str, Tensor]:
    """onto + (after - of), parameter by parameter, in float32.

    Where `onto` is wider, in the columns of patch_embedding that hear of the image, its own values stay.
    """
    out = {name: value.float().clone() for name, value in onto.items()}
    for name, value in out.items():
        change = after[name].float() - of[name].float()
        (value if value.shape == change.shape else value[:, : change.shape[1]]).add_(change)
    return out


def carry(run: Path, stage: str, log: Log) -> Path:
    """Write `stage`-i2v of a run. Raises SystemExit naming what is missing."""
    teacher, after, onto = (run / f"{n}.safetensors" for n in ("teacher-t2v", f"{stage}-t2v", "teacher-i2v"))
    for path in (teacher, after, onto):
        if not path.exists():
            raise SystemExit(f"{path} is missing: run the stage that makes it first (model/training/README.md)")
    made = run / f"{stage}-i2v.safetensors"
    save_weights(made, carried(load_file(teacher), load_file(after), load_file(onto)), {"from": "task arithmetic"})
    log(stage=stage, task="i2v", by=f"{stage}-t2v - teacher-t2v + teacher-i2v")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stage", choices=CARRIED, required=True)
    parser.add_argument("--look", type=int, default=64, help="held-out prompts to render and judge at the end")
    args = parser.parse_args()
    log = Log(args.out / f"{args.stage}.jsonl")
    print(carry(args.out, args.stage, log))
    look(args.out, args.stage, "i2v", args.look, log)


if __name__ == "__main__":
    main()
