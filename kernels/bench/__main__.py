"""Prints what `kernels.bench` measures: checks, times beside floors, other configurations. Exits by the checks."""

import argparse
import json
import sys
from typing import Any

import torch
import triton

from kernels import selftest
from kernels.bench import elementwise, linear, sparse_linear
from kernels.bench.sparse_linear import Inputs, Row
from kernels.bench.timing import measure_ceilings


def line(row: Row) -> str:
    beside = f"  floor {row.floor * 1e3:8.3f} ms  {row.share:6.1%} of the ceiling" if row.floor else ""
    return f"{row.stage:<44} {row.seconds * 1e3:8.3f} ms{beside}"


def data(row: Row) -> dict[str, float | str]:
    return {"stage": row.stage, "ms": row.seconds * 1e3, "floor_ms": row.floor * 1e3, "share": row.share}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    parser.add_argument("--only", choices=("sparse-linear", "linear", "elementwise"), help="of the operations one")
    parser.add_argument("--variants", action="store_true", help="other configurations too")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("The benchmark needs a CUDA card; there is none here.", file=sys.stderr)
        return 1

    def say(text: str) -> None:
        if not asked.json:
            print(text, flush=True)

    found = selftest.run()
    right = found.ok
    ceilings = measure_ceilings()
    major, minor = torch.cuda.get_device_capability()
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "capability": f"{major}.{minor}",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "bf16_tflops": ceilings.bf16 / 1e12,
        "copy_tb_per_s": ceilings.copy / 1e12,
        "selftest": found.sentence,
        "shapes": [],
    }
    say(f"{report['device']} (compute {major}.{minor}), torch {torch.__version__}, triton {triton.__version__}")
    say(f"measured ceilings: bf16 matmul {ceilings.bf16 / 1e12:.0f} TFLOP/s, copy {ceilings.copy / 1e12:.2f} TB/s")
    say(found.sentence)
    for shape in sparse_linear.SHAPES if asked.only in (None, "sparse-linear") else ():
        inputs = Inputs.draw(shape)
        say(f"\nsparse-linear attention, {shape.name}: L={shape.length} H={shape.heads} d=128 topk=0.1")
        checks = sparse_linear.check(inputs)
        right &= checks["error"] <= checks["limit"] and checks["finite"] and not checks["of them no near tie"]
        for name, value in checks.items():
            say(f"  {name:<30} {value:.2e}" if isinstance(value, float) else f"  {name:<30} {value}")
        rows = sparse_linear.stages(shape, inputs, ceilings)
        for row in rows:
            say("  " + line(row))
        entry: dict[str, Any] = {"shape": shape.name, "checks": checks, "stages": [data(r) for r in rows]}
        if asked.variants:
            entry["variants"] = []
            for stage, row in sparse_linear.variants(inputs, shape, ceilings):
                say(f"  {stage:<13}" + (line(row) if isinstance(row, Row) else row))
                entry["variants"].append({"of": stage, **(data(row) if isinstance(row, Row) else {"failed": row})})
        report["shapes"].append(entry)
        del inputs
    if asked.only in (None, "linear"):
        fine, report["linear"] = linear.report(say, ceilings.copy, asked.variants)
        right &= fine
    if asked.only in (None, "elementwise"):
        fine, report["elementwise"] = elementwise.report(say, ceilings.copy, asked.variants)
        right &= fine
    if asked.json:
        print(json.dumps(report, indent=1))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
