"""Does this project compute what the published models compute? `python -m model.parity FILE...`

Reads golden safetensors (see tests/golden/README.md), runs this project's code on their inputs, prints a
line per output and exits 1 where one is further from the recorded output than its tolerance.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from kernels import reference
from model import sampler
from model.checkpoints.entries import of_tensors
from model.checkpoints.safetensors import read
from model.errors import CorruptWeights
from model.wan.config import TransformerConfig, UMT5Shapes, VAEConfig
from model.wan.transformer import WanTransformer
from model.wan.vae import WanVAE

FLOAT32 = 2e-5
TRAJECTORY = 1e-6
QUANTIZED = 1e-2
CODES = 1e-3  # share of int8 codes that may be one step apart


@dataclass(frozen=True)
class Check:
    """One output: its error, and how large that may be."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # NaN fails


Tensors = dict[str, Tensor]
Metadata = dict[str, str]


def relative_error(out: Tensor, ref: Tensor) -> float:
    """||out - ref|| / ||ref|| in float64; infinite where the shapes differ."""
    if out.shape != ref.shape:
        return float("inf")
    out, ref = out.detach().cpu().double(), ref.detach().cpu().double()
    return float((out - ref).norm() / ref.norm())


def _state(tensors: Tensors, module: nn.Module) -> nn.Module:
    prefix = "state_dict."
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    module.load_state_dict(state)
    return module.to(next(iter(state.values())).device)


def transformer(tensors: Tensors, meta: Metadata) -> Iterator[Check]:
    config = TransformerConfig(
        dim=int(meta["dim"]),
        ffn_dim=int(meta["ffn_dim"]),
        heads=int(meta["num_heads"]),
        layers=int(meta["num_layers"]),
        in_channels=int(meta["in_dim"]),
        text_dim=int(meta["text_dim"]),
        text_len=int(meta["text_len"]),
    )
    model = _state(tensors, WanTransformer(config))
    latent = tensors["input.latent"]
    if "input.conditioning" in tensors:
        latent = torch.cat([latent, tensors["input.conditioning"]], dim=1)
    velocity = model(latent, tensors["input.timestep"], tensors["input.text_embedding"])
    yield Check("velocity", relative_error(velocity, tensors["output.velocity"]), FLOAT32)


def vae(tensors: Tensors, meta: Metadata) -> Iterator[Check]:
    config = VAEConfig(
        dim=int(meta["dim"]),
        z_dim=int(meta["z_dim"]),
        dim_mult=tuple(int(x) for x in meta["dim_mult"].split(",")),
        res_blocks=int(meta["num_res_blocks"]),
        temporal_downsample=tuple(x == "true" for x in meta["temporal_downsample"].split(",")),
    )
    model = _state(tensors, WanVAE(config))
    assert isinstance(model, WanVAE)
    video = tensors["decode.video"]
    yield Check("decode", relative_error(model.decode(tensors["decode.latent"]), video), FLOAT32)
    streamed = torch.cat(list(model.stream(tensors["decode.latent"])), dim=2)
    yield Check("decode, streamed", relative_error(streamed, video.clamp(-1, 1)), FLOAT32)
    for name in ("encode", "encode_first_frame"):
        latent = model.encode(tensors[f"{name}.video"])
        yield Check(name, relative_error(latent, tensors[f"{name}.latent"]), FLOAT32)


def rcm(tensors: Tensors, meta: Metadata) -> Iterator[Check]:
    steps, sigma_max = int(meta["steps"]), float(meta["sigma_max"])
    times = torch.tensor(sampler.rcm_timesteps(steps, sigma_max), dtype=torch.float64)
    yield Check("timesteps", relative_error(times, tensors["timesteps"]), TRAJECTORY)

    def velocity(x: Tensor, t: float) -> Tensor:  # the formula that the file's metadata names
        x32 = x.float()
        return 0.4 * x32 + 0.3 * torch.sin(3 * x32) * t

    draws = iter(range(1, steps + 1))
    fresh = None if meta["ode"] == "true" else lambda: tensors[f"noise.{next(draws)}"]
    for s in sampler.rcm(velocity, tensors["noise.0"], steps, sigma_max, fresh):
        yield Check(f"latent.{s.k}", relative_error(s.latent, tensors[f"latent.{s.k}"]), TRAJECTORY)


def sla(tensors: Tensors, meta: Metadata) -> Iterator[Check]:
    topk = float(meta["topk"])
    q, k, v = (tensors[name] for name in "qkv")
    found = reference.block_map(q.transpose(1, 2), k.transpose(1, 2), topk)
    recorded = tensors["sla.block_map"].bool()
    differing = float((found != recorded).sum()) if found.shape == recorded.shape else float("inf")
    yield Check("block map, blocks that differ", differing, 0.0)
    out = reference.sparse_linear_attention(q, k, v, tensors["proj_l.weight"], tensors["proj_l.bias"], topk)
    yield Check("output", relative_error(out, tensors["sla.output"]), QUANTIZED)


def int8_linear(tensors: Tensors, _: Metadata) -> Iterator[Check]:
    for name, codes_name, scale_name in (("weight", "int8_weight", "scale"), ("x", "x_int8", "x_scale")):
        codes, scale = reference.quantize_blocks(tensors[name])
        apart = (codes.int() - tensors[codes_name].int()).abs()
        share = float("inf") if int(apart.max()) > 1 else float((apart > 0).float().mean())
        yield Check(f"{codes_name}, share one step apart", share, CODES)
        yield Check(scale_name, relative_error(scale, tensors[scale_name]), FLOAT32)
    y = reference.int8_linear(tensors["x"], tensors["int8_weight"], tensors["scale"], tensors["bias"])
    yield Check("y", relative_error(y, tensors["y"]), QUANTIZED)


def umt5(tensors: Tensors, meta: Metadata) -> Iterator[Check]:
    from model.wan.text_encoder import UMT5TextEncoder  # transformers is slow to import

    shapes = UMT5Shapes(
        vocabulary=int(meta["vocab"]),
        dim=int(meta["dim"]),
        attention_dim=int(meta["dim"]),
        ffn_dim=int(meta["ffn_dim"]),
        heads=int(meta["num_heads"]),
        layers=int(meta["num_layers"]),
        buckets=int(meta["num_buckets"]),
    )
    prefix = "state_dict."
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    encoder = UMT5TextEncoder(shapes).eval()
    encoder.fill(of_tensors(state, Path("umt5")), torch.float32, tensors["input.ids"].device)
    embedding = tensors["output.embedding"]
    mask = tensors["input.mask"]
    rows = encoder(tensors["input.ids"], mask)
    real = int(meta["real_tokens"])
    yield Check("embedding", relative_error(rows[:, :real], embedding[:, :real]), FLOAT32)
    yield Check("rows past the prompt, largest value", float(rows[:, real:].abs().max()), 0.0)


# The kind of a golden file is known by an output that only it holds.
KINDS: dict[str, Callable[[Tensors, Metadata], Iterator[Check]]] = {
    "output.velocity": transformer,
    "decode.video": vae,
    "timesteps": rcm,
    "sla.output": sla,
    "int8_weight": int8_linear,
    "output.embedding": umt5,
}


def check_file(path: Path, device: str = "cpu") -> list[Check]:
    """Run every check of a golden file. Raises CorruptWeights where it is not one."""
    tensors = {name: tensor.to(device) for name, tensor in read(path).items()}
    with safe_open(path, "pt") as file:
        meta = file.metadata() or {}
    for output, kind in KINDS.items():
        if output in tensors:
            with torch.no_grad():
                return list(kind(tensors, meta))
    raise CorruptWeights(f"{path}: not a golden file of a known kind", f"known by: {', '.join(KINDS)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32 here
    failed = 0
    for path in args.files:
        if path.suffix != ".safetensors":
            continue  # a folder's README beside its tensors
        try:
            checks = check_file(path, args.device)
        except CorruptWeights as error:
            print(f"{error.message}: {error.next}", file=sys.stderr)
            failed += 1
            continue
        for c in checks:
            failed += not c.passed
            print(
                f"{path.stem:<12} {c.name:<34} {c.error:9.2e}  <= {c.tolerance:.0e}  {'ok' if c.passed else 'FAIL'}"
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
