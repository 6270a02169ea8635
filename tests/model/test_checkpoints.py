"""Official layouts at small size, randomly filled: they load, and every kind of damage is refused by name."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kernels import reference
from model.checkpoints import pth, turbo
from model.errors import CorruptWeights
from model.wan.config import TransformerConfig
from model.wan.transformer import WanTransformer

CONFIG = TransformerConfig(dim=192, ffn_dim=320, heads=2, layers=2, text_dim=48, text_len=8, sla=True)
Tensors = dict[str, torch.Tensor]


def official(quantised: bool) -> tuple[WanTransformer, Tensors]:
    """A random model, and its state dict as TurboDiffusion would have saved it."""
    torch.manual_seed(0)
    model = WanTransformer(CONFIG).eval()
    tensors: Tensors = {}
    for name, tensor in model.state_dict().items():
        layer, _, kind = name.rpartition(".")
        linear = name.startswith("blocks.") and layer.endswith((".q", ".k", ".v", ".o", "ffn.0", "ffn.2"))
        if quantised and linear and kind == "weight":
            codes, scale = reference.quantize_blocks(tensor)
            tensors |= {f"{layer}.int8_weight": codes, f"{layer}.scale": scale}
        elif quantised and linear:
            tensors[name] = tensor.bfloat16()
        else:
            tensors[name.replace("self_attn.proj_l", "self_attn.attn_op.local_attn.proj_l")] = tensor
    return model, tensors


def velocity(model: WanTransformer) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(1, 16, 2, 4, 4, generator=generator)
    text = torch.randn(1, 8, 48, generator=generator)
    with torch.no_grad():
        return model(latent, torch.tensor([700.0]), text)


@pytest.mark.parametrize(("quantised", "tolerance"), [(False, 0.0), (True, 2e-2)])
def test_a_checkpoint_in_the_official_layout_computes_the_same(
    tmp_path: Path, quantised: bool, tolerance: float
) -> None:
    model, tensors = official(quantised)
    torch.save(tensors, tmp_path / "turbo.pth")
    loaded = turbo.load(pth.read(tmp_path / "turbo.pth"), CONFIG, tmp_path / "turbo.pth", torch.float32)
    exact = velocity(model)
    assert (velocity(loaded.eval()) - exact).norm() <= tolerance * exact.norm()


class Runs:
    """What unpickling must never run."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return (print, ("code ran",))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: p.unlink(), "no such file"),
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:-5000]), "not a whole .pth file"),
    "empty": (lambda p: p.write_bytes(b""), "not a whole .pth file"),
    "a plain pickle": (lambda p: p.write_bytes(pickle.dumps({"x": Runs()})), "not a whole .pth file"),
    "code in a torch file": (lambda p: torch.save({"x": Runs()}, p), "holds more than tensors"),
    "a list": (lambda p: torch.save([torch.ones(1)], p), "expected a dictionary of tensors, found list"),
    "a nested dictionary": (lambda p: torch.save({"model": {"x": torch.ones(1)}}, p), "expected a dictionary"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_unsafe_file_is_refused(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "turbo.pth"
    torch.save(official(quantised=False)[1], path)
    break_it, message = DAMAGE[damage]
    break_it(path)
    with pytest.raises(CorruptWeights, match=message) as error:
        pth.read(path)
    assert "turbo.pth" in error.value.message
    assert error.value.next
    assert "code ran" not in capsys.readouterr().out


def drop(name: str) -> Callable[[Tensors], object]:
    return lambda t: t.pop(name)


def put(name: str, tensor: torch.Tensor) -> Callable[[Tensors], object]:
    return lambda t: t.update({name: tensor})


Q = "blocks.1.self_attn.q"
CHANGES: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "scale missing": (drop(f"{Q}.scale"), rf"{Q}.scale is missing"),
    "codes missing": (drop(f"{Q}.int8_weight"), rf"{Q}.weight is missing"),
    "scale of another block size": (put(f"{Q}.scale", torch.ones(3, 3)), r"expected \[2, 2\], found \[3, 3\]"),
    "codes that are not int8": (
        put(f"{Q}.int8_weight", torch.ones(192, 192)),
        "expected int8, found torch.float",
    ),
    "scale not finite": (put(f"{Q}.scale", torch.full((2, 2), torch.nan)), f"{Q}.weight holds values"),
    "codes of another size": (
        put(f"{Q}.int8_weight", torch.ones(129, 129, dtype=torch.int8)),
        rf"{Q}.weight expected \[192, 192\], found \[129, 129\]",
    ),
    "proj_l missing": (
        drop("blocks.0.self_attn.attn_op.local_attn.proj_l.bias"),
        "blocks.0.self_attn.proj_l.bias is missing",
    ),
    "another model": (put("blocks.2.norm3.weight", torch.ones(192)), "blocks.2.norm3.weight does not belong here"),
    "image channels": (
        put("patch_embedding.weight", torch.ones(192, 144)),
        r"patch_embedding.weight expected \[192, 64\], found \[192, 144\]",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_tensors_that_do_not_fit_are_refused_by_name(change: str) -> None:
    _, tensors = official(quantised=True)
    break_it, message = CHANGES[change]
    break_it(tensors)
    with pytest.raises(CorruptWeights, match=message):
        turbo.load(tensors, CONFIG, Path("turbo.pth"), torch.float32)
