"""`python -m model.bench dit`: one denoising step of the real shapes on random weights, beside the card's floors.

Ways: `torch` computes what lies between the products in plain torch, `fast` by kernels, `fp8` and `int8` with
linear layers in 8 bits besides. All take the sparse-linear attention kernel; `reference` is the step without
any kernel (minutes for the large shapes). Needs only torch, triton, numpy and safetensors.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from kernels import accuracy, switch
from kernels.bench.timing import Ceilings, measure_ceilings, seconds
from kernels.elementwise import reference
from kernels.reference import K_BLOCK, Q_BLOCK
from model.wan.config import PRESETS, Preset, TransformerConfig
from model.wan.quantize import DTYPES, quantize_linears
from model.wan.recording import AFTER, available_bytes, pays
from model.wan.transformer import WanTransformer

WORDS = 100  # tokens of the prompt
SHOWN = 30  # kernels in the table
SPARE = 12 << 30  # bytes beside the weights that a float32 step of the small model takes


@dataclass(frozen=True)
class Case:
    """A model at a size (width, height) of 81 frames."""

    name: str
    preset: Preset
    size: tuple[int, int]

    @property
    def latent(self) -> tuple[int, ...]:
        width, height = self.size
        return (1, self.preset.transformer.in_channels, 21, height // 8, width // 8)

    @property
    def tokens(self) -> int:
        return self.latent[2] * self.latent[3] * self.latent[4] // 4


CASES = {
    name: Case(name, PRESETS[preset], size)
    for name, preset, size in (
        ("1.3b-480p", "wan2.1-t2v-1.3b", (832, 480)),
        ("14b-480p", "wan2.1-t2v-14b", (832, 480)),
        ("14b-720p", "wan2.1-t2v-14b", (1280, 720)),
        ("a14b-i2v-720p", "wan2.2-i2v-a14b", (1280, 720)),
    )
}


@dataclass(frozen=True)
class StepWork:
    """FLOPs of a step's matrix products, and the bytes of what lies between them, each read and written once."""

    linear: float
    cross: float
    attention: float
    bytes: float

    @property
    def flops(self) -> float:
        return self.linear + self.cross + self.attention


def work(case: Case, keys: int | None = None) -> StepWork:
    """keys: rows of the prompt that cross-attention sees; by default all of them."""
    c = case.preset.transformer
    length, topk = float(case.tokens), case.preset.topk
    n = keys or c.text_len
    blocks = -(-case.tokens // K_BLOCK)
    kept = case.tokens if topk is None else max(1, int(topk * blocks)) * K_BLOCK
    linear = 2 * length * c.dim * (6 * c.dim + 2 * c.ffn_dim)  # q, k, v, o; q, o; up and down
    attention = 4 * length * kept * c.dim
    if topk is not None:  # the linear branch and the scores of the block map
        attention += 4 * length * c.dim * c.head_dim + 2 * length / Q_BLOCK * blocks * c.dim
    # In fp8: three norms (read x, y, write x, a byte); q, k; attention to the prompt (read q twice, write a byte);
    # rows for o. GELU is part of a product.
    between = c.dim * (3 * 7 + 8 + 5 + 3)
    return StepWork(
        c.layers * linear, c.layers * 4 * length * n * c.dim, c.layers * attention, c.layers * length * between
    )


def build(config: TransformerConfig, topk: float | None, device: str, dtype: torch.dtype) -> WanTransformer:
    """A transformer of random weights, made in its dtype where it is to be."""
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = WanTransformer(config, topk)
    finally:
        torch.set_default_dtype(before)
    for part in (model.time_embedding, model.time_projection):
        part.float()
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class Inputs:
    latent: Tensor
    timestep: Tensor
    text: Tensor

    @staticmethod
    def draw(latent: tuple[int, ...], config: TransformerConfig, device: str, dtype: torch.dtype) -> "Inputs":
        draw = torch.Generator().manual_seed(1)
        text = torch.randn(1, config.text_len, config.text_dim, generator=draw)
        text[:, WORDS:] = 0
        noise = torch.randn(latent, generator=draw)
        return Inputs(noise.to(device, dtype), torch.tensor([900.0], device=device), text.to(device, dtype))

    def to(self, dtype: torch.dtype) -> "Inputs":
        return Inputs(self.latent.to(dtype), self.timestep, self.text.to(dtype))

    def step(self, model: WanTransformer) -> Tensor:
        with torch.inference_mode():
            return model(self.latent, self.timestep, self.text)


@contextmanager
def without_kernels() -> Iterator[None]:
    switch.use("reference")
    try:
        yield
    finally:
        switch.use(None)


def by_torch() -> AbstractContextManager[Any]:
    """Plain torch between the products; the attention kernel as it is."""
    return patch.object(switch, "elementwise", lambda _: reference)


WAYS: dict[str, Callable[[], AbstractContextManager[Any]]] = {"torch": by_torch, "fast": nullcontext}


@contextmanager
def block_maps(kept: list[Tensor], replay: bool) -> Iterator[None]:
    """Notes each layer's block map, or gives the noted ones back in their order."""
    from kernels.attention import sparse_linear

    turn = iter(list(kept))

    def noting(choose: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def index(*given: Any) -> Tensor:
            if replay:
                return next(turn)
            kept.append(choose(*given))
            return kept[-1]

        return index

    # Of q and k, or of the means that 8-bit attention has made already.
    with ExitStack() as patched:
        for name in ("block_index", "index_of_means"):
            patched.enter_context(patch.object(sparse_linear, name, noting(getattr(sparse_linear, name))))
        yield


def error(model: WanTransformer, exact: WanTransformer, inputs: Inputs) -> float:
    """Relative error of the velocity against float32 with the same block maps."""
    maps: list[Tensor] = []
    with launched(model), block_maps(maps, replay=False):
        out = inputs.step(model)
    with by_torch(), block_maps(maps, replay=True):
        return accuracy.relative_error(out, inputs.to(torch.float32).step(exact))


@contextmanager
def launched(model: WanTransformer) -> Iterator[None]:
    """Every kernel by a call of its own, nothing replayed."""
    was, model.recordings.on = model.recordings.on, False
    try:
        yield
    finally:
        model.recordings.on = was


def float32_fits(model: WanTransformer) -> bool:
    return available_bytes() > sum(4 * p.numel() for p in model.parameters()) + SPARE


@dataclass(frozen=True)
class Kernel:
    """One kernel's calls in a step, summed."""

    name: str
    calls: int
    seconds: float


def kernels_of(run: Callable[[], object], trace: Path | None) -> list[Kernel]:
    """Every kernel of a call, the longest first. trace: where to write the calls one by one."""
    run()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        run()
        torch.cuda.synchronize()
    if trace is not None:
        recorded.export_chrome_trace(str(trace))
    events = [e for e in recorded.key_averages() if e.device_type.name == "CUDA"]
    found = [Kernel(str(e.key), e.count, e.self_device_time_total / 1e6) for e in events]
    return sorted(found, key=lambda k: -k.seconds)


def eight_bit_rate() -> float | None:
    """FLOP/s of an fp8 matmul of 8192^3 with a scale a row; None where the card has none."""
    if torch.cuda.get_device_capability() < (8, 9):
        return None
    a, b = (torch.randn(8192, 8192, device="cuda").to(torch.float8_e4m3fn) for _ in range(2))
    one = torch.ones(8192, 1, device="cuda")
    took = seconds(lambda: torch._scaled_mm(a, b.T, one, one.T, out_dtype=torch.bfloat16))  # pyright: ignore
    return 2 * 8192**3 / took


def measure(
    case: Case,
    ceilings: Ceilings,
    eight: float | None,
    ways: Sequence[str],
    trace: Path | None,
    say: Callable[[str], None],
    device: str = "cuda",
    dtype: torch.dtype = torch.bfloat16,
) -> dict[str, Any]:
    preset = case.preset
    whole, fewer = work(case), work(case, WORDS + 1)
    floors = {"bf16": fewer.flops / ceilings.bf16} | ({} if eight is None else {"8 bits": fewer.flops / eight})
    say(f"\n{case.name}: {preset.name} {case.size[0]}x{case.size[1]}, {case.tokens} tokens, topk {preset.topk}")
    between = f"between the products {fewer.bytes / ceilings.copy * 1e3:.1f} ms of bytes"
    limits = ", ".join(f"{name} {1e3 * floor:.1f} ms" for name, floor in floors.items())
    counted = f"with {WORDS + 1} keys of the prompt {fewer.flops / 1e12:.1f}"
    say(f"  work {whole.flops / 1e12:.1f} TFLOP, {counted}; floors {limits}; {between}")
    report: dict[str, Any] = {
        "case": case.name, "tokens": case.tokens, "tflop": fewer.flops / 1e12,
        "floor_ms": {name: 1e3 * floor for name, floor in floors.items()}, "ways": {},
    }  # fmt: skip
    model = build(preset.transformer, preset.topk, device, dtype)
    inputs = Inputs.draw(case.latent, preset.transformer, device, dtype)
    exact = copy.deepcopy(model).float() if float32_fits(model) else None
    if exact is None:
        say("  the float32 model does not fit beside this one: no error measured")
    for way in ways:
        if way in DTYPES:
            model = None  # before the next one is made
            model = build(preset.transformer, preset.topk, device, dtype)
            quantize_linears(model, DTYPES[way])
        assert model is not None
        torch.cuda.reset_peak_memory_stats()
        once = way == "reference"
        with {**WAYS, "reference": without_kernels}.get(way, nullcontext)():
            recorded = not once and pays(inputs.latent, case.tokens * preset.transformer.dim)
            repeats, warm = 1 if once else 5, AFTER + 1 if recorded else int(not once)
            took = seconds(lambda m=model: inputs.step(m), repeats, warm)
            peak = torch.cuda.max_memory_allocated() / 2**30
            shares = {name: floor / took for name, floor in floors.items()}
            parts = "  ".join(f"{share:5.1%} of {name}" for name, share in shares.items())
            say(f"  {way:<10} {took * 1e3:9.1f} ms  {parts}  peak {peak:.1f} GiB")
            found: dict[str, Any] = {"ms": took * 1e3, "share": shares, "peak_gib": peak}
            if model.recordings.recorded and way != "torch":
                found |= beside_launched(model, inputs, say)
            if exact is not None and not once:
                found["error"] = error(model, exact, inputs)
                say(f"    error against float32 with the same block maps: {found['error']:.2e}")
        if way != "torch" and not once:
            found["kernels"] = kernel_table(model, inputs, trace, say)
        report["ways"][way] = found
    return report


def beside_launched(model: WanTransformer, inputs: Inputs, say: Callable[[str], None]) -> dict[str, Any]:
    """What a recorded step takes and computes where its kernels are launched one by one."""
    replayed = inputs.step(model)
    with launched(model):
        took = seconds(lambda: inputs.step(model), repeats=5, warm=1)
        alike = torch.equal(replayed, inputs.step(model))
    say(f"    replayed from a recording; launched one by one {took * 1e3:.1f} ms, the same bits: {alike}")
    return {"launched_ms": took * 1e3, "same_bits": alike}


def kernel_table(
    model: WanTransformer, inputs: Inputs, trace: Path | None, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    table = kernels_of(lambda: inputs.step(model), trace)
    busy = sum(k.seconds for k in table)
    say(f"    kernels of this step, {busy * 1e3:.1f} ms in {sum(k.calls for k in table)} calls:")
    for kernel in table[:SHOWN]:
        share = kernel.seconds / busy
        say(f"    {kernel.seconds * 1e3:9.2f} ms {share:6.1%} {kernel.calls:6}x  {kernel.name[:90]}")
    return [{"name": k.name, "calls": k.calls, "ms": k.seconds * 1e3} for k in table]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m model.bench dit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--preset", action="append", choices=list(CASES), help="may be given several times; default: all"
    )
    parser.add_argument(
        "--ways", nargs="+", choices=[*WAYS, *DTYPES, "reference"],
        help="by default torch, fast, and fp8 or where there is none int8",
    )  # fmt: skip
    parser.add_argument("--trace", type=Path, help="write every kernel call of the last step, for chrome://tracing")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    asked = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("The benchmark needs a CUDA card; there is none here.", file=sys.stderr)
        return 1

    def say(text: str) -> None:
        if not asked.json:
            print(text, flush=True)

    ceilings, eight = measure_ceilings(), eight_bit_rate()
    ways = asked.ways or [*WAYS, "int8" if eight is None else "fp8"]
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "bf16_tflops": ceilings.bf16 / 1e12,
        "fp8_tflops": None if eight is None else eight / 1e12, "copy_tb_per_s": ceilings.copy / 1e12, "cases": [],
    }  # fmt: skip
    rates = f"bf16 {ceilings.bf16 / 1e12:.0f} TFLOP/s" + ("" if eight is None else f", fp8 {eight / 1e12:.0f}")
    say(f"{report['device']}, torch {torch.__version__}; measured {rates}, copy {ceilings.copy / 1e12:.2f} TB/s")
    for name in asked.preset or CASES:
        try:
            found = measure(CASES[name], ceilings, eight, ways, asked.trace, say)
            report["cases"].append(found)
        except torch.OutOfMemoryError as failure:
            say(f"  {name}: {str(failure).splitlines()[0]}")
            report["cases"].append({"case": name, "failed": str(failure).splitlines()[0]})
        torch.cuda.empty_cache()
    if asked.json:
        print(json.dumps(report, indent=1))
    return 0
