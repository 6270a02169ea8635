"""This project computes what the published models compute, and parity notices when it does not."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import reference
from kernels.elementwise import reference as elementwise
from model import parity
from model.wan import transformer

GOLDEN = sorted((Path(__file__).parent.parent / "golden").glob("*.safetensors"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_golden_outputs_are_reproduced(path: Path) -> None:
    checks = parity.check_file(path)
    assert checks
    assert [c for c in checks if not c.passed] == []


def golden(name: str) -> Path:
    return next(p for p in GOLDEN if p.stem == name)


def failing(name: str) -> set[str]:
    return {c.name for c in parity.check_file(golden(name)) if not c.passed}


def test_breaking_rope_order_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def halves(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:  # rotates (i, i + d/2), not (2i, 2i + 1)
        cos, sin = table
        first, second = x.float().chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)

    monkeypatch.setattr(elementwise, "apply_rope", halves)
    assert failing("dit_t2v_head") == {"velocity"}
    assert failing("dit_i2v_head") == {"velocity"}


def test_breaking_the_order_of_rope_axes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    table = transformer.rope_table

    def width_before_height(grid: tuple[int, ...], head_dim: int, device: torch.device) -> torch.Tensor:
        t, h, w = grid
        return table((t, w, h), head_dim, device)

    monkeypatch.setattr(transformer, "rope_table", width_before_height)
    assert failing("dit_t2v_head") == {"velocity"}


def test_breaking_the_sla_block_size_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    block_map = reference.block_map
    sparse = reference.block_sparse_attention
    monkeypatch.setattr(reference, "block_map", lambda q, k, topk: block_map(q, k, topk, 64, 128))
    monkeypatch.setattr(reference, "block_sparse_attention", lambda q, k, v, m: sparse(q, k, v, m, 64, 128))
    assert failing("sla") == {"block map, blocks that differ", "output"}


def test_the_command_prints_a_line_per_output_and_exits_by_the_verdict(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model.parity"]
    good = subprocess.run([*command, golden("rcm_sde4")], capture_output=True, text=True)
    assert good.returncode == 0
    assert len(good.stdout.splitlines()) == 5
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(golden("rcm_sde4").read_bytes()[:-1000])
    bad = subprocess.run([*command, damaged, tmp_path / "none.safetensors"], capture_output=True, text=True)
    assert bad.returncode == 1
    assert "damaged.safetensors: not a whole safetensors file" in bad.stderr
    assert "none.safetensors: no such file" in bad.stderr
