"""The transformer's fast arithmetic is its reference's: keys that are alike counted once, residuals added later.

The kernels themselves are judged in tests/kernels; here plain torch stands in for them, so that what is compared is
the algebra alone. `test_in_the_interpreter` runs the model once through the kernels.
"""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from kernels import switch
from kernels.elementwise import reference
from kernels.quantized import FP8, Rows
from model.wan import transformer
from model.wan.config import TransformerConfig
from model.wan.prompt import LastUsed, distinct_rows
from model.wan.transformer import WanTransformer, rope_table
from tests.kernels import interpreting

CONFIG = TransformerConfig(dim=128, ffn_dim=160, heads=2, layers=3, text_dim=32, text_len=40, sla=True)
GRID = (2, 6, 6)


@pytest.fixture
def model() -> WanTransformer:
    torch.manual_seed(0)
    return WanTransformer(CONFIG).eval()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module like `fused` that is not `reference`: the transformer takes the fast path with plain torch."""
    names = ("norm", "gate_residual_norm", "rms_norm", "rms_norm_rope", "gelu", "quantize", "attend_prompt")
    ops = SimpleNamespace(**{name: getattr(reference, name) for name in names})
    choose = switch.elementwise
    monkeypatch.setattr(switch, "elementwise", lambda x: choose(x) if switch.forced() == "reference" else ops)
    transformer.kept_rope_table.cache_clear()
    yield
    switch.use(None)


def inputs(lengths: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    b = len(lengths)
    text = torch.randn(b, CONFIG.text_len, CONFIG.text_dim, generator=draw)
    for i, n in enumerate(lengths):
        text[i, n:] = 0
    latent = torch.randn(b, 16, GRID[0], 2 * GRID[1], 2 * GRID[2], generator=draw)
    return latent, torch.linspace(900, 400, b), text


def both(model: WanTransformer, *args: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        fast = model(*args)
        switch.use("reference")
        plain = model(*args)
        switch.use(None)
    return fast, plain


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("lengths", [(5,), (0,), (1, 39), (40,), (40, 0, 17), (33, 7)])
def test_padding_counted_is_padding_attended(model: WanTransformer, lengths: tuple[int, ...]) -> None:
    fast, plain = both(model, *inputs(lengths))
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("stand_in")
def test_the_count_of_padding_matters(model: WanTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    def once(text: Tensor) -> tuple[Tensor, Tensor]:
        rows, bias = distinct_rows(text)
        return rows, bias.clamp_max(0)  # all padding weighs as one key

    monkeypatch.setattr(transformer, "distinct_rows", once)
    fast, plain = both(model, *inputs((5,)))
    assert float((fast - plain).abs().max()) > 1e-3


def test_fewer_rows_are_kept_than_there_are() -> None:
    text = torch.ones(2, 512, 32)
    text[0, 5:], text[1, 11:] = 0, 0
    rows, bias = distinct_rows(text)
    assert rows.shape == (2, 128, 32)
    assert bias[0, :6].tolist() == pytest.approx([0.0] * 5 + [torch.tensor(507.0).log().item()])
    assert bool((bias[0, 6:] == -torch.inf).all())
    assert bias[1, 11].item() == pytest.approx(torch.tensor(501.0).log().item())


@pytest.mark.parametrize(
    ("longest", "room"),
    [(0, 128), (127, 128), (128, 192), (191, 192), (256, 320), (447, 448), (448, 512), (512, 512)],
)
def test_rooms_for_rows_are_few_and_have_one_for_the_padding(longest: int, room: int) -> None:
    text = torch.ones(1, 512, 2)
    text[:, longest:] = 0
    rows, bias = distinct_rows(text)
    assert rows.shape[1] == bias.shape[1] == room
    assert int((bias > 0).sum()) == (longest < 511)  # log(1) is 0


@pytest.mark.usefixtures("stand_in")
def test_a_prompt_is_embedded_once_for_all_steps(model: WanTransformer) -> None:
    asked: list[int] = []
    for name in ("text_embedding", "blocks.0.cross_attn.k", "blocks.2.cross_attn.v"):
        model.get_submodule(name).register_forward_hook(lambda *_: asked.append(1))
    latent, timestep, text = inputs((5, 11))
    with torch.inference_mode():
        first, second = text.clone().chunk(2)  # with guidance: two of one tensor
        for _ in range(3):
            model(latent[:1], timestep[:1], first)
            model(latent[:1], timestep[:1], second)
    assert len(asked) == 2 * 3


@pytest.mark.usefixtures("stand_in")
def test_another_prompt_or_other_weights_are_not_taken_for_the_last(model: WanTransformer) -> None:
    latent, timestep, text = inputs((5,))
    with torch.no_grad():
        model(latent, timestep, text)
        text[0, 2] += 1  # in place
        fast, plain = both(model, latent, timestep, text)
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
        model.get_parameter("blocks.1.cross_attn.v.weight").mul_(1.5)
        fast, plain = both(model, latent, timestep, text)
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


def test_no_more_is_kept_than_asked() -> None:
    kept = LastUsed[int](2)
    a, b, c = (torch.zeros(3) for _ in range(3))
    made: list[int] = []

    def make(n: int) -> int:
        made.append(n)
        return n

    for n, tensor in ((1, a), (2, b), (1, a), (3, c), (1, a), (2, b)):
        assert kept.get(tensor, [], lambda n=n: make(n)) == n
    assert made == [1, 2, 3, 2]
    assert len(kept.entries) == 2


@pytest.mark.usefixtures("stand_in")
def test_rotation_tables_are_made_once_a_size(model: WanTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(transformer, "rope_table", lambda *args: made.append(args) or rope_table(*args))
    with torch.inference_mode():
        for _ in range(3):
            model(*inputs((5,)))
    assert len(made) == 1


def test_gradients_flow_through_the_reference(model: WanTransformer) -> None:
    latent, timestep, text = inputs((5,))
    model(latent, timestep, text).square().mean().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "proj_l" not in n)


def test_a_model_in_bfloat16_is_modulated_in_float32(
    model: WanTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.dtype] = []
    compute = reference.gate_residual_norm

    def spy(x: Tensor, y: Tensor | None, gate: Tensor | None, how: object, *rest: object) -> object:
        seen.extend([how.scale.dtype, how.shift.dtype] if isinstance(how, reference.Modulation) else [])
        seen.extend([] if gate is None else [gate.dtype])
        return compute(x, y, gate, how, *rest)  # pyright: ignore

    monkeypatch.setattr(reference, "gate_residual_norm", spy)
    model.bfloat16()
    for part in (model.time_embedding, model.time_projection):
        part.float()
    latent, timestep, text = inputs((5,))
    with torch.no_grad():
        out = model(latent.bfloat16(), timestep, text.bfloat16())
    assert out.dtype == torch.bfloat16
    assert len(seen) == 2 * (2 * 3 + 1) + 2 * 3  # two norms a block and the head's; two gates a block
    assert set(seen) == {torch.float32}


class Eight(torch.nn.Module):
    """A stand-in for a linear layer in 8 bits."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().to(FP8))
        self.linear = linear
        self.taken: list[bool] = []

    def forward(self, x: Tensor | Rows) -> Tensor:
        self.taken.append(isinstance(x, Rows))
        return self.linear(x.float() if isinstance(x, Rows) else x)


@pytest.mark.usefixtures("stand_in")
def test_layers_in_8_bits_are_given_rows(model: WanTransformer) -> None:
    latent, timestep, text = inputs((5, 11))
    with torch.no_grad():
        exact = model(latent, timestep, text)
        for block in model.blocks:
            for part in (block.self_attn, block.cross_attn):
                for name in "qkvo":
                    setattr(part, name, Eight(getattr(part, name)))
            block.ffn[0], block.ffn[2] = Eight(block.ffn[0]), Eight(block.ffn[2])
        fast, plain = both(model, latent, timestep, text)
    torch.testing.assert_close(fast, plain, rtol=1e-2, atol=1e-2)  # a code may fall to the other side
    error = float((fast - exact).norm() / exact.norm())
    assert 1e-3 < error < 0.1
    for name, layer in model.named_modules():
        if isinstance(layer, Eight):
            of_text = name.endswith(("cross_attn.k", "cross_attn.v"))
            assert set(layer.taken) == {not of_text}, name


@pytest.mark.timeout(300)
def test_in_the_interpreter() -> None:
    """The whole model through the kernels, in float32, where the interpreter is right."""
    code = """
import tests.kernels.interpreting
import torch
from kernels import switch
from tests.model.test_fast_path import CONFIG, inputs
from model.wan.transformer import WanTransformer
torch.manual_seed(0)
model = WanTransformer(CONFIG).eval()
with torch.no_grad():
    args = inputs((5, 11))
    switch.use("reference"); plain = model(*args)
    switch.use("fast"); fast = model(*args)
torch.testing.assert_close(fast, plain, rtol=2e-5, atol=2e-5)
assert not torch.equal(fast, plain)
print("alike")
"""
    done = interpreting.run("-c", code)
    assert done.stdout.strip() == "alike", done.stderr[-3000:]
