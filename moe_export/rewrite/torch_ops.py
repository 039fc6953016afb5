"""The ops of the ``moe_export`` domain as PyTorch ops: what a rewritten model calls.

``torch.ops.moe_export.router`` and its siblings have the signatures of ``moe/schema.py``, an eager
implementation (float64 where the tokens are float64, float32 otherwise) and a fake one, so that
``torch.export`` keeps each as one node with symbolic T.  Importing this module registers them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_export.lazy import runs
from moe_export.moe.schema import DOMAIN, OPS, OpSchema
from moe_export.rewrite.torch_attention import appended, attended, normed, rotated
from moe_export.rewrite.torch_linear import Stored, grouped_linear, linear_of

# The ranks of docs/ops.md: numbers, then NaN, then experts outside the best groups (-inf).
LARGEST_NUMBER = 1e37
RANK_OF_NAN = -1e38


def torch_signature(op: OpSchema) -> str:
    """The signature of ``op`` as PyTorch writes it: inputs, then attributes by keyword.

    An optional input that a required one follows has no default and is passed as ``None``.
    """
    last_required = max(i for i, input in enumerate(op.inputs) if not input.optional)
    arguments = [
        f"Tensor{'?' if input.optional else ''} {input.name}{'=None' if i > last_required else ''}"
        for i, input in enumerate(op.inputs)
    ]
    if op.attributes:
        arguments.append("*")
    for attribute in op.attributes:
        kind = {"int": "int", "float": "float", "string": "str"}[attribute.type]
        default = "" if attribute.default is None else f"={attribute.default!r}"
        arguments.append(f"{kind} {attribute.name}{default}".replace("'", '"'))
    outputs = ", ".join("Tensor" for _ in op.outputs)
    return f"({', '.join(arguments)}) -> {outputs if len(op.outputs) == 1 else f'({outputs})'}"


def _compute_dtype(tokens: Tensor) -> torch.dtype:
    return torch.float64 if tokens.dtype == torch.float64 else torch.float32


# --- Router -------------------------------------------------------------------------------------


@torch.library.custom_op(
    f"{DOMAIN}::router", mutates_args=(), schema=torch_signature(OPS["Router"])
)
def router(
    router_logits: Tensor,
    correction_bias: Tensor | None = None,
    expert_scale: Tensor | None = None,
    *,
    top_k: int,
    score: str = "softmax",
    normalize: int = 0,
    normalize_eps: float = 0.0,
    normalize_min: float = 0.0,
    num_groups: int = 1,
    topk_groups: int = 1,
    group_score: str = "max",
    routed_scaling: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """``topk_weights [T, K]`` and ``topk_ids [T, K]`` (int32) of ``router_logits [T, E]``."""
    logits = router_logits.to(_compute_dtype(router_logits))
    scores = _scores(logits, score)
    ranks = _ranks(scores if correction_bias is None else scores + correction_bias.to(logits))
    if num_groups > 1:
        ranks = _limited_to_best_groups(ranks, num_groups, topk_groups, group_score)
    chosen = _descending(ranks)[:, :top_k]

    weights = scores.gather(1, chosen)
    if score == "softmax_topk":
        weights = weights.softmax(dim=-1)
    if score == "sigmoid_topk":
        weights = weights.sigmoid()
    if normalize:
        total = weights.sum(dim=-1, keepdim=True) + normalize_eps
        weights = weights / total.clamp(min=normalize_min)
    if expert_scale is not None:
        weights = weights * expert_scale.to(logits)[chosen]
    return weights * routed_scaling, chosen.to(torch.int32)


@router.register_fake
def _(
    router_logits: Tensor,
    correction_bias: Tensor | None = None,
    expert_scale: Tensor | None = None,
    *,
    top_k: int,
    **_attributes: object,
) -> tuple[Tensor, Tensor]:
    shape = (router_logits.shape[0], top_k)
    weights = router_logits.new_empty(shape, dtype=_compute_dtype(router_logits))
    return weights, router_logits.new_empty(shape, dtype=torch.int32)


def _scores(logits: Tensor, score: str) -> Tensor:
    if score == "softmax":
        # A NaN logit takes no part in the softmax of the others and has no score itself.
        is_nan = logits.isnan()
        return logits.masked_fill(is_nan, -math.inf).softmax(dim=-1).masked_fill(is_nan, math.nan)
    return logits.sigmoid() if score == "sigmoid" else logits


def _ranks(scores: Tensor) -> Tensor:
    numbers = scores.clamp(-LARGEST_NUMBER, LARGEST_NUMBER)
    return numbers.masked_fill(scores.isnan(), RANK_OF_NAN)


def _limited_to_best_groups(
    ranks: Tensor, num_groups: int, topk_groups: int, group_score: str
) -> Tensor:
    num_tokens, num_experts = ranks.shape
    by_group = ranks.view(num_tokens, num_groups, num_experts // num_groups)
    members = 1 if group_score == "max" else 2
    group_scores = by_group.topk(members, dim=-1).values.sum(dim=-1)
    best = _descending(group_scores)[:, :topk_groups]
    shut = torch.ones_like(group_scores, dtype=torch.bool).scatter(1, best, value=False)
    return by_group.masked_fill(shut.unsqueeze(-1), -math.inf).view(num_tokens, num_experts)


def _descending(scores: Tensor) -> Tensor:
    """The order of each row from the largest to the smallest, ties to the lower index."""
    return scores.sort(dim=-1, descending=True, stable=True).indices


# --- Experts ------------------------------------------------------------------------------------


@torch.library.custom_op(
    f"{DOMAIN}::experts", mutates_args=(), schema=torch_signature(OPS["Experts"])
)
def experts(
    x: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    up: Tensor | None,
    down: Tensor,
    up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    up_scales: Tensor | None = None,
    up_zeros: Tensor | None = None,
    down_scales: Tensor | None = None,
    down_zeros: Tensor | None = None,
    *,
    activation: str = "silu",
    gated: int = 1,
    gate_layout: str = "concatenated",
    weight_on: str = "output",
    alpha: float = 1.702,
    limit: float = 7.0,
    weight_format: str = "f32",
    block_size: int = 0,
    row_format: str = "f32",
    weight_layout: str = "rows",
) -> Tensor:
    """``y [T, Hout]``: for each token the weighted sum of what its experts make of it.

    PyTorch has no int4: such weights come as int8 that holds -8..7.  Raises ``ValueError`` for
    weights in panels, which only kernels read.
    """
    _require_rows(weight_layout)

    def product(role: Stored, rows: Tensor, offsets: Sequence[int]) -> Tensor:
        return grouped_linear(rows, offsets, role, block_size, row_format)

    def between(hidden: Tensor) -> Tensor:
        return activated(hidden, activation, gated, gate_layout, alpha, limit)

    first = None if up is None else Stored(up, up_bias, up_scales, up_zeros)
    last = Stored(down, down_bias, down_scales, down_zeros)
    return mixed(x, topk_ids, topk_weights, weight_on, first, last, between, product)


Product = Callable[[Stored, Tensor, Sequence[int]], Tensor]
"""Each expert's matrix on its own rows, which follow each other from offset to offset."""


def mixed(
    x: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    weight_on: str,
    up: Stored | None,
    down: Stored,
    between: Callable[[Tensor], Tensor],
    product: Product,
    behind: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """``y [T, Hout]``: what ``docs/ops.md`` says of ``Experts``, with a product of one's own.

    ``behind`` is done with an expert's rows before they are weighted, if anything.
    """
    dtype = _compute_dtype(x)
    num_experts, width, _ = down.weight.shape
    num_tokens, top_k = topk_ids.shape
    order, offsets = _sorted(topk_ids, num_experts)
    starts = offsets.tolist()
    served = order[: starts[-1]]  # behind them are those of no expert
    weights = topk_weights.to(dtype).reshape(-1, 1)[served]
    rows = x[served // top_k].to(dtype)
    if weight_on == "input":
        rows = rows * weights
    if up is not None:
        rows = between(product(up, rows, starts))
    rows = product(down, rows, starts)
    if behind is not None:
        rows = behind(rows)
    if weight_on == "output":
        rows = rows * weights
    y_assigned = x.new_zeros((num_tokens * top_k, width), dtype=dtype)
    y_assigned[served] = rows
    return _sum_in_order(y_assigned.view(num_tokens, top_k, width))


@experts.register_fake
def _(
    x: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    up: Tensor | None,
    down: Tensor,
    *_optional: Tensor | None,
    weight_layout: str = "rows",
    **_attributes: object,
) -> Tensor:
    _require_rows(weight_layout)
    return x.new_empty((x.shape[0], down.shape[1]), dtype=_compute_dtype(x))


def _require_rows(weight_layout: str) -> None:
    if weight_layout != "rows":
        raise ValueError(f"PyTorch reads weights in rows, not in {weight_layout!r}")


def activated(
    hidden: Tensor, activation: str, gated: int, gate_layout: str, alpha: float, limit: float
) -> Tensor:
    """What is between an expert's matrices, ``[.., I or 2I]`` to ``[.., I]``."""
    if not gated:
        return _ACTIVATIONS[activation](hidden)
    if gate_layout == "interleaved":
        gate, value = hidden[..., 0::2], hidden[..., 1::2]
    else:
        gate, value = hidden.chunk(2, dim=-1)
    if activation == "swiglu_clamped":
        gate, value = gate.clamp(max=limit), value.clamp(-limit, limit)
        return gate * (alpha * gate).sigmoid() * (value + 1)
    return _ACTIVATIONS[activation](gate) * value


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "identity": lambda x: x,
}


def _sum_in_order(rows: Tensor) -> Tensor:
    """``[T, K, N]`` to ``[T, N]``, adding k = 0, 1, 2, ... one after the other."""
    total = rows.new_zeros((rows.shape[0], rows.shape[2]))
    for k in range(rows.shape[1]):
        total = total + rows[:, k]
    return total


# --- Dispatch, GroupedMatMul, Combine -------------------------------------------------------------


@torch.library.custom_op(
    f"{DOMAIN}::dispatch", mutates_args=(), schema=torch_signature(OPS["Dispatch"])
)
def dispatch(topk_ids: Tensor, *, num_experts: int) -> tuple[Tensor, Tensor]:
    """``order [S]`` and ``expert_offsets [E+1]`` (int32): assignments sorted by expert."""
    order, expert_offsets = _sorted(topk_ids, num_experts)
    return order.to(torch.int32), expert_offsets.to(torch.int32)


def _sorted(topk_ids: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """The assignments in the order of their experts, and where each expert's begin, ``[E+1]``."""
    ids = topk_ids.reshape(-1).to(torch.int64)
    keys = torch.where((ids < 0) | (ids >= num_experts), num_experts, ids)
    sorted_keys, order = keys.sort(stable=True)
    boundaries = torch.arange(num_experts + 1, device=ids.device)
    return order, torch.searchsorted(sorted_keys, boundaries)


@dispatch.register_fake
def _(topk_ids: Tensor, *, num_experts: int) -> tuple[Tensor, Tensor]:
    order = topk_ids.new_empty((topk_ids.numel(),), dtype=torch.int32)
    return order, topk_ids.new_empty((num_experts + 1,), dtype=torch.int32)


@torch.library.custom_op(
    f"{DOMAIN}::grouped_matmul", mutates_args=(), schema=torch_signature(OPS["GroupedMatMul"])
)
def grouped_matmul(
    x_sorted: Tensor,
    expert_offsets: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    scales: Tensor | None = None,
    zeros: Tensor | None = None,
    *,
    weight_format: str = "f32",
    block_size: int = 0,
    row_format: str = "f32",
    weight_layout: str = "rows",
) -> Tensor:
    """``y_sorted [S, N]``: each expert's matrix on its own rows; rows of no expert are 0."""
    _require_rows(weight_layout)
    stored = Stored(weights, bias, scales, zeros)
    rows = x_sorted.to(_compute_dtype(x_sorted))
    return grouped_linear(rows, expert_offsets.tolist(), stored, block_size, row_format)


@grouped_matmul.register_fake
def _(
    x_sorted: Tensor,
    expert_offsets: Tensor,
    weights: Tensor,
    *_optional: Tensor | None,
    weight_layout: str = "rows",
    **_attributes: object,
) -> Tensor:
    _require_rows(weight_layout)
    shape = (x_sorted.shape[0], weights.shape[1])
    return x_sorted.new_empty(shape, dtype=_compute_dtype(x_sorted))


@torch.library.custom_op(
    f"{DOMAIN}::combine", mutates_args=(), schema=torch_signature(OPS["Combine"])
)
def combine(y_sorted: Tensor, order: Tensor, topk_weights: Tensor) -> Tensor:
    """``y [T, N]``: rows back at their tokens, weighted and summed in order of k."""
    dtype = _compute_dtype(y_sorted)
    y_assigned = torch.empty_like(y_sorted, dtype=dtype)
    y_assigned[order.to(torch.int64)] = y_sorted.to(dtype)
    by_token = y_assigned.view(*topk_weights.shape, y_sorted.shape[1])
    return _sum_in_order(by_token * topk_weights.to(dtype).unsqueeze(-1))


@combine.register_fake
def _(y_sorted: Tensor, order: Tensor, topk_weights: Tensor) -> Tensor:
    shape = (topk_weights.shape[0], y_sorted.shape[1])
    return y_sorted.new_empty(shape, dtype=_compute_dtype(y_sorted))


# --- Linear -------------------------------------------------------------------------------------


@torch.library.custom_op(
    f"{DOMAIN}::linear", mutates_args=(), schema=torch_signature(OPS["Linear"])
)
def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    scales: Tensor | None = None,
    zeros: Tensor | None = None,
    *,
    weight_format: str = "f32",
    block_size: int = 0,
    row_format: str = "f32",
    weight_layout: str = "rows",
) -> Tensor:
    """``y [.., N]`` of ``x [.., H]`` and ``weight [N, H]``."""
    _require_rows(weight_layout)
    rows = x.to(_compute_dtype(x))
    return linear_of(rows, Stored(weight, bias, scales, zeros), block_size, row_format)


@linear.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    *_optional: Tensor | None,
    weight_layout: str = "rows",
    **_attributes: object,
) -> Tensor:
    _require_rows(weight_layout)
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=_compute_dtype(x))


# --- CachedAttention ----------------------------------------------------------------------------


@torch.library.custom_op(
    f"{DOMAIN}::cached_attention", mutates_args=(), schema=torch_signature(OPS["CachedAttention"])
)
def cached_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    past_key: Tensor,
    past_value: Tensor,
    *,
    scale: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """``y [B,S,N*v]``, ``present_key [P+S,B,M,d]`` and ``present_value [P+S,B,M,v]``."""
    dtype = _compute_dtype(query)
    keys, values = (
        appended(past.to(dtype), rows.to(dtype))
        for past, rows in ((past_key, key), (past_value, value))
    )
    return attended(query.to(dtype), keys, values, mask, scale), keys, values


@cached_attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    past_key: Tensor,
    past_value: Tensor,
    **_attributes: object,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = _compute_dtype(query)
    batch, length, width = query.shape
    groups = width // key.shape[2]
    total = past_key.shape[0] + length
    return (
        query.new_empty((batch, length, groups * value.shape[2]), dtype=dtype),
        past_key.new_empty((total, *past_key.shape[1:]), dtype=dtype),
        past_value.new_empty((total, *past_value.shape[1:]), dtype=dtype),
    )


# --- RotaryHeads --------------------------------------------------------------------------------


@torch.library.custom_op(
    f"{DOMAIN}::rotary_heads", mutates_args=(), schema=torch_signature(OPS["RotaryHeads"])
)
def rotary_heads(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    norm: Tensor | None = None,
    *,
    num_heads: int,
    epsilon: float = 0.0,
) -> Tensor:
    """``y [B,S,N*d]``: each head of ``x``, normed where ``norm`` is given, at its position."""
    dtype = _compute_dtype(x)
    heads = x.to(dtype).unflatten(-1, (num_heads, x.shape[-1] // num_heads))
    if norm is not None:
        heads = normed(heads, norm.to(dtype), epsilon)
    return rotated(heads, cos.to(dtype), sin.to(dtype)).flatten(2)


@rotary_heads.register_fake
def _(x: Tensor, *_others: Tensor | None, **_attributes: object) -> Tensor:
    return x.new_empty(x.shape, dtype=_compute_dtype(x))


# --- Probe --------------------------------------------------------------------------------------


@torch.library.custom_op(f"{DOMAIN}::probe", mutates_args=())
def probe(x: Tensor, name: str) -> Tensor:
    """A copy of ``x``; gives the value a name that capture can find.  It is not in the op set."""
    return x.clone()


@probe.register_fake
def _(x: Tensor, name: str) -> Tensor:
    return torch.empty_like(x)


# Tensors that are read when they are needed: these take them as they are, an expert at a time.
for _op, _implementation in (
    (torch.ops.moe_export.experts, experts),
    (torch.ops.moe_export.grouped_matmul, grouped_matmul),
):
    runs(_op.default)(_implementation._init_fn)
