"""The element-wise work by Triton kernels: the functions of `kernels.elementwise.reference`, forward only.

Inputs in bfloat16, float16 or float32; float32 inside; the roundings of the reference; the same bits every time.
"""

# pyright: reportCallIssue=false
# (a launch takes num_warps, which Triton's types do not know)
import math

import torch
from torch import Tensor

from kernels.elementwise import activation, few_keys, reference, rope
from kernels.elementwise import norm as layer_norm
from kernels.elementwise.reference import Affine, Modulation
from kernels.quantized import FP8, FP8_MAX, INT8_MAX, Rows
from kernels.tuning import elementwise as tuning

LOG2E = math.log2(math.e)
HEAD_DIMS = (16, 32, 64, 128)
RMS_ROWS, RMS_WIDTH = 4, 512  # of `few_keys.rms_rows`
MOST: dict[torch.dtype, float] = {FP8: FP8_MAX, torch.int8: INT8_MAX}  # the largest code


def norm(
    x: Tensor,
    how: Modulation | Affine,
    quantize: torch.dtype | None = None,
    config: tuning.Rows | None = None,
) -> Tensor | Rows:
    """x [b, L, C] normalised over its channels: in x's dtype, or as Rows of [b * L, C]."""
    _, normed = _residual_norm(x, None, None, how, quantize, config)
    assert normed is not None
    return normed


def gate_residual(x: Tensor, y: Tensor, gate: Tensor | None, config: tuning.Rows | None = None) -> Tensor:
    """x + y * gate, the product rounded to x's dtype. gate: float32 [b, C]; None: x + y."""
    return _residual_norm(x, y, gate, None, None, config)[0]


def gate_residual_norm(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    how: Modulation | Affine,
    quantize: torch.dtype | None = None,
    config: tuning.Rows | None = None,
) -> tuple[Tensor, Tensor | Rows]:
    """`gate_residual`, and the `norm` of what it gives, from one read of x and y. y None: nothing is added."""
    summed, normed = _residual_norm(x, y, gate, how, quantize, config)
    assert normed is not None
    return summed, normed


def _residual_norm(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    how: Modulation | Affine | None,
    quantize: torch.dtype | None,
    config: tuning.Rows | None,
) -> tuple[Tensor, Tensor | Rows | None]:
    b, length, width = x.shape
    x = x.contiguous()
    y = None if y is None else y.contiguous()
    config = config or tuning.find(width).rows
    # Residual streams are never written in place: the caller may still hold x.
    summed = x if y is None else torch.empty_like(x)
    out, scale_out = (None, None) if how is None else _output(x, quantize)
    scale, shift = x, x
    scale_batch = 0
    if isinstance(how, Modulation):
        scale, shift = (_table(t, b) for t in (how.scale, how.shift))
        if scale.stride(0) != shift.stride(0):
            scale, shift = scale.contiguous(), shift.contiguous()
        scale_batch = scale.stride(0)
    elif how is not None:
        scale, shift = how.weight.contiguous(), how.bias.contiguous()
    gate = None if gate is None else _table(gate, b)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        layer_norm.residual_norm[(length, b)](
            x,
            x if y is None else y,
            x if gate is None else gate,
            scale,
            shift,
            summed,
            x if out is None else out,
            x if scale_out is None else scale_out,
            length,
            0 if gate is None else gate.stride(0),
            scale_batch,
            0.0 if how is None else how.eps,
            RESIDUAL=y is not None,
            GATED=gate is not None,
            NORM=how is not None,
            MODULATE=isinstance(how, Modulation),
            **_codes(quantize),
            WIDTH=width,
            CHUNK=config.chunk,
            num_warps=config.warps,
        )
    return summed, _result(out, scale_out)


def _table(table: Tensor, batch: int) -> Tensor:
    """[b, C], or [1, C] for all of a batch, to be read by its batch stride."""
    return (table if table.stride(1) == 1 else table.contiguous()).expand(batch, -1)


def rms_norm(x: Tensor, weight: Tensor, eps: float, config: tuning.Rows | None = None) -> Tensor:
    """x / sqrt(mean of squares over C + eps) * weight. x: [b, L, C] by strides, the last one 1."""
    config = config or tuning.find(x.shape[2]).rope
    out, _ = _norm_rope(x, None, weight, weight, None, 1, eps, config)
    return out.flatten(2)


def rms_norm_rope(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    table: Tensor,
    heads: int,
    eps: float,
    config: tuning.Rows | None = None,
) -> tuple[Tensor, Tensor]:
    """RMSNorm of q and k over all channels, then interleaved pairs of each head rotated.

    q, k: [b, L, C] by strides, the last one 1: slices of a packed product are read where they are. table: float32
    [2, L, 1, C / heads / 2] as (cos, sin). Returns [b, L, heads, d] twice, contiguous. Raises ValueError on a table
    of another shape.
    """
    wanted = (2, q.shape[1], 1, q.shape[2] // heads // 2)
    if table.shape != wanted:  # read as the wanted one, it would give other rows' angles
        raise ValueError(f"the table of angles is {list(table.shape)}, not {list(wanted)}: cut it to the rows of q")
    config = config or tuning.find(q.shape[2]).rope
    q_out, k_out = _norm_rope(q, k, q_weight, k_weight, table, heads, eps, config)
    assert k_out is not None
    return q_out, k_out


def _norm_rope(
    q: Tensor,
    k: Tensor | None,
    q_weight: Tensor,
    k_weight: Tensor,
    table: Tensor | None,
    heads: int,
    eps: float,
    config: tuning.Rows,
) -> tuple[Tensor, Tensor | None]:
    b, length, width = q.shape
    q = q if q.stride(2) == 1 else q.contiguous()
    k = k if k is None or k.stride(2) == 1 else k.contiguous()
    q_out = torch.empty((b, length, heads, width // heads), dtype=q.dtype, device=q.device)
    k_out = None if k is None else torch.empty_like(q_out)
    other = q if k is None else k
    with torch.cuda.device_of(q):
        rope.rms_norm_rope[(length, b)](
            q,
            other,
            q_weight.contiguous(),
            k_weight.contiguous(),
            q if table is None else table.contiguous(),
            q_out,
            q_out if k_out is None else k_out,
            length,
            *q.stride()[:2],
            *other.stride()[:2],
            eps,
            BOTH=k is not None,
            ROTATE=table is not None,
            WIDTH=width,
            PAIRS=width // heads // 2,
            CHUNK=config.chunk,
            num_warps=config.warps,
        )
    return q_out, k_out


def gelu(x: Tensor, quantize: torch.dtype | None = None, config: tuning.Rows | None = None) -> Tensor | Rows:
    """GELU in its tanh form. x: [..., n]; Rows have the leading dimensions flattened."""
    return _activate(x, True, quantize, config)


def quantize(x: Tensor, dtype: torch.dtype, config: tuning.Rows | None = None) -> Rows:
    """Rows of x [..., n], the leading dimensions flattened."""
    rows = _activate(x, False, dtype, config)
    assert isinstance(rows, Rows)
    return rows


def _activate(x: Tensor, bend: bool, dtype: torch.dtype | None, config: tuning.Rows | None) -> Tensor | Rows:
    width = x.shape[-1]
    rows = x.numel() // width
    config = config or tuning.find(width).rows
    x = x.contiguous()
    out, scale = _output(x, dtype)
    with torch.cuda.device_of(x):
        activation.activate_rows[(rows,)](
            x,
            out,
            out if scale is None else scale,
            GELU=bend,
            **_codes(dtype),
            WIDTH=width,
            CHUNK=config.chunk,
            num_warps=config.warps,
        )
    result = _result(out, scale)
    assert result is not None
    return result


def attend_few(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, config: tuning.FewKeys | None = None
) -> Tensor:
    """Softmax attention of q [b, L, h, d] to few keys k, v [b, n, h, d]; bias: float32 [b, n], added to the scores.

    The bias is natural: log(m) makes a key count as m. Returns [b, L, h, d] in q's dtype.
    """
    if bias is None or q.shape[3] not in HEAD_DIMS:
        return reference.attend_few(q, k, v, bias)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    _attend(q, k, v, bias, out, config)
    return out


def attend_prompt(
    q: Tensor,
    q_weight: Tensor,
    eps: float,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    reach: Tensor | None = None,
    quantize: torch.dtype | None = None,
    config: tuning.FewKeys | None = None,
) -> Tensor | Rows:
    """`attend_few` of RMSNorm(q), q [b, L, C], to k and v [b, n, h, C / h]. Returns [b, L, C] or Rows [b * L, C].

    reach: float32 [b], no |v| is larger: e4m3 rows then take reach / 448 for their scale and are written at once.
    """
    b, length, width = q.shape
    heads = q.unflatten(2, (k.shape[2], -1))
    if bias is None or heads.shape[3] not in HEAD_DIMS:
        normed = rms_norm(q, q_weight, eps).unflatten(2, (k.shape[2], -1))
        out = attend_few(normed, k, v, bias).flatten(2)
        return out if quantize is None else _activate(out, False, quantize, None)
    q = q.contiguous()
    factor = torch.empty((b, length), dtype=torch.float32, device=q.device)
    with torch.cuda.device_of(q):
        few_keys.rms_rows[(-(-b * length // RMS_ROWS),)](
            q, factor, b * length, eps, width, ROWS=RMS_ROWS, WIDTH=RMS_WIDTH, num_warps=4
        )
    at_once = reach is not None and quantize is not None and quantize != torch.int8
    codes = torch.empty((b, length, width), dtype=quantize if at_once else q.dtype, device=q.device)
    scale = torch.empty(b * length, dtype=torch.float32, device=q.device) if at_once else None
    _attend(heads, k, v, bias, codes, config, q_weight.contiguous(), factor, reach, scale)
    if scale is not None:
        return Rows(codes.flatten(0, 1), scale)
    return codes if quantize is None else _activate(codes, False, quantize, None)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    out: Tensor,
    config: tuning.FewKeys | None,
    weight: Tensor | None = None,
    factor: Tensor | None = None,
    reach: Tensor | None = None,
    scale: Tensor | None = None,
) -> None:
    b, length, heads, d = q.shape
    if not k.shape == v.shape == (b, bias.shape[1], heads, d) or len(bias) != b:  # it would read past them
        raise ValueError(f"k {list(k.shape)}, v {list(v.shape)}, bias {list(bias.shape)} for q {list(q.shape)}")
    q, k, v = (t if t.stride()[2:] == (d, 1) else t.contiguous() for t in (q, k, v))
    # Two compilations at most, whatever prompts come: keys that fit are padded to one number.
    config = config or tuning.few_keys(q.dtype, k.shape[1])
    with torch.cuda.device_of(q):
        few_keys.attend_few[(config.grid(length, b * heads, q.device), b * heads)](
            q,
            k,
            v,
            bias.contiguous(),
            out,
            bias if weight is None else weight,
            bias if factor is None else factor,
            bias if scale is None else reach,
            bias if scale is None else scale,
            length,
            k.shape[1],
            heads,
            LOG2E / math.sqrt(d),
            *q.stride()[:2],
            *k.stride()[:2],
            *v.stride()[:2],
            NORM=factor is not None,
            CODES=scale is not None,
            MOST=FP8_MAX,
            PRECISION="tf32x3" if q.dtype == torch.float32 else "tf32",
            QUERIES=config.queries,
            KEYS=config.keys,
            WHOLE=k.shape[1] <= config.keys,
            STAGES=config.stages,
            DIM=d,
            num_warps=config.warps,
        )


def _output(x: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
    if dtype is None:
        return torch.empty_like(x), None
    rows = x.numel() // x.shape[-1]
    codes = torch.empty((rows, x.shape[-1]), dtype=dtype, device=x.device)
    return codes, torch.empty(rows, dtype=torch.float32, device=x.device)


def _codes(dtype: torch.dtype | None) -> dict[str, object]:
    return {
        "QUANTIZE": dtype is not None,
        "MOST": 1.0 if dtype is None else MOST[dtype],
        "INTEGER": dtype == torch.int8,
    }


def _result(out: Tensor | None, scale: Tensor | None) -> Tensor | Rows | None:
    return out if out is None or scale is None else Rows(out, scale)
