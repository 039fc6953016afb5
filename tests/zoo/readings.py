"""Where each zoo block keeps its weights: read by a person, in NumPy, for the oracle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .reading import Array, Reading, Weights, reads


def _silu(v: Array) -> Array:
    return v / (1 + np.exp(-v))


def _rms(x: Array) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def _shared(gate: Array, up: Array, down: Array) -> Callable[[Array], Array]:
    return lambda x: (_silu(x @ gate.T) * (x @ up.T)) @ down.T


def _halves(stack: Array, axis: int = 1) -> tuple[Array, Array]:
    first, second = np.split(stack, 2, axis)
    return first, second


@reads("dense_linear")
def _dense_linear(w: Weights) -> Reading:
    return Reading(
        w("gating_network.weight"),
        w("experts.*.weight"),
        router_bias=w("gating_network.bias"),
        down_bias=w("experts.*.bias"),
        beside=lambda x: np.zeros((len(x), 10)),
    )


@reads("dense_einsum")
def _dense_einsum(w: Weights) -> Reading:
    return Reading(w("phi").T, w("theta").swapaxes(1, 2))


@reads("switch_top1")
def _switch_top1(w: Weights) -> Reading:
    return Reading(w("router.weight"), **w.ffn("mlp.*.wi", "mlp.*.wo"))


@reads("hard_top1")
def _hard_top1(w: Weights) -> Reading:
    experts = w.ffn("expert*.fc1", "expert*.fc2")
    return Reading(w("switch.weight"), router_bias=w("switch.bias"), **experts)


@reads("mixtral_like")
def _mixtral_like(w: Weights) -> Reading:
    experts = w.glu(*(f"experts.*.{name}.weight" for name in ("w1", "w3", "w2")))
    return Reading(w("gate.weight"), **experts)


def _proj_experts(w: Weights) -> dict[str, Array]:
    return w.glu(*(f"experts.*.{name}_proj.weight" for name in ("gate", "up", "down")))


@reads("topk_unnormalized", "router_in_float32", "sorted_dispatch")
def _topk_unnormalized(w: Weights) -> Reading:
    return Reading(w("gate.weight"), **_proj_experts(w))


@reads("softmax_over_chosen")
def _softmax_over_chosen(w: Weights) -> Reading:
    experts = w.ffn("experts.*.net.0", "experts.*.net.2")
    name = "router.topkroute_linear"
    return Reading(w(f"{name}.weight"), router_bias=w(f"{name}.bias"), **experts)


@reads("deepseek_v3_like")
def _deepseek_v3_like(w: Weights) -> Reading:
    bias = w("gate.e_score_correction_bias")
    return Reading(w("gate.weight"), correction_bias=bias, **_proj_experts(w))


@reads("group_limited_greedy")
def _group_limited_greedy(w: Weights) -> Reading:
    gate, up = _halves(w("experts.*.w12.weight"))
    return Reading(w("gate.proj.weight"), w("experts.*.w3.weight"), up, gate)


@reads("onehot_dispatch")
def _onehot_dispatch(w: Weights) -> Reading:
    return Reading(w("wg").T, w("wo").swapaxes(1, 2), w("wi").swapaxes(1, 2))


@reads("stacked_bmm")
def _stacked_bmm(w: Weights) -> Reading:
    gate, up = _halves(w("gate_up"))
    return Reading(w("router.weight"), w("down"), up, gate)


@reads("stacked_transposed")
def _stacked_transposed(w: Weights) -> Reading:
    gate, up = _halves(w("experts.gate_up_proj").swapaxes(1, 2))
    return Reading(w("gate.weight"), w("experts.down_proj").swapaxes(1, 2), up, gate)


@reads("gpt_oss_like")
def _gpt_oss_like(w: Weights) -> Reading:
    return Reading(
        w("router.weight"),
        w("mlp2_weight"),
        up=w("mlp1_weight")[:, 1::2],
        gate=w("mlp1_weight")[:, ::2],
        router_bias=w("router.bias"),
        up_bias=w("mlp1_bias")[:, 1::2],
        gate_bias=w("mlp1_bias")[:, ::2],
        down_bias=w("mlp2_bias"),
    )


@reads("clamped_swiglu")
def _clamped_swiglu(w: Weights) -> Reading:
    gate, up = _halves(w("experts.gate_up_proj"))
    return Reading(w("gate.weight"), w("experts.down_proj"), up, gate)


@reads("shared_expert_gated")
def _shared_expert_gated(w: Weights) -> Reading:
    shared = _shared(*(w(f"shared_expert.{name}_proj.weight") for name in ("gate", "up", "down")))
    switch = w("shared_expert_gate.weight")
    return Reading(
        w("gate.weight"),
        **_proj_experts(w),
        beside=lambda x: shared(x) / (1 + np.exp(-x @ switch.T)),
    )


@reads("shared_expert_added")
def _shared_expert_added(w: Weights) -> Reading:
    shared = _shared(*(w(f"shared_experts.{name}.weight") for name in ("w1", "w3", "w2")))
    experts = w.glu(*(f"experts.*.{name}.weight" for name in ("w1", "w3", "w2")))
    return Reading(w("gate.weight"), **experts, beside=shared)


@reads("llama4_like")
def _llama4_like(w: Weights) -> Reading:
    gate, up = _halves(w("experts.gate_up_proj").swapaxes(1, 2))
    return Reading(
        w("router.weight"),
        w("experts.down_proj").swapaxes(1, 2),
        up,
        gate,
        beside=_shared(*(w(f"shared_expert.{n}_proj.weight") for n in ("gate", "up", "down"))),
    )


@reads("separate_modules")
def _separate_modules(w: Weights) -> Reading:
    experts = w.glu("experts.w_gate", "experts.w_up", "experts.w_down")
    return Reading(w("router.weight"), **experts)


@reads("normed_router")
def _normed_router(w: Weights) -> Reading:
    scale = w("router_norm.weight")
    return Reading(
        w("router_proj.weight") / 0.7,
        **w.ffn("ffns.*.lin_in", "ffns.*.lin_out"),
        to_router=lambda x: _rms(x) * scale,
    )


@reads("sequential_experts")
def _sequential_experts(w: Weights) -> Reading:
    experts = w.ffn("experts.*.0", "experts.*.3")
    return Reading(w("router.weight"), router_bias=w("router.bias"), **experts)


@reads("prenorm_residual")
def _prenorm_residual(w: Weights) -> Reading:
    def norm(x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return unit * w("norm.weight") + w("norm.bias")

    return Reading(
        w("gate.weight"),
        **w.ffn("experts.*.linear1", "experts.*.linear2"),
        router_bias=w("gate.bias"),
        to_router=norm,
        to_experts=norm,
        beside=lambda x: x,
    )


@reads("epsilon_denominator")
def _epsilon_denominator(w: Weights) -> Reading:
    experts = w.glu(*(f"experts.*.fc_{name}.weight" for name in ("gate", "value", "out")))
    return Reading(w("route.weight"), **experts)


@reads("ernie_like")
def _ernie_like(w: Weights) -> Reading:
    return Reading(
        w("gate.weight"),
        **_proj_experts(w),
        gate_bias=w("experts.*.gate_proj.bias"),
        up_bias=w("experts.*.up_proj.bias"),
        down_bias=w("experts.*.down_proj.bias"),
        correction_bias=w("moe_statics.e_score_correction_bias")[0],
    )


@reads("parameter_list")
def _parameter_list(w: Weights) -> Reading:
    return Reading(w("gate.weight"), w("W_out.*").swapaxes(1, 2), w("W_in.*").swapaxes(1, 2))


@reads("module_dict")
def _module_dict(w: Weights) -> Reading:
    names = ["syntax", "number", "name", "colour"]
    experts = w.ffn("specialists.*.0", "specialists.*.2", names)
    return Reading(w("router.weight"), router_bias=w("router.bias"), **experts)


@reads("gemma4_like")
def _gemma4_like(w: Weights) -> Reading:
    gate, up = _halves(w("experts.gate_up_proj"))
    scale = w("router.scale")
    return Reading(
        w("router.proj.weight"),
        w("experts.down_proj"),
        up,
        gate,
        expert_scale=w("router.per_expert_scale"),
        to_router=lambda x: _rms(x) * scale * x.shape[1] ** -0.5 * 4,
    )


@reads("relu_squared")
def _relu_squared(w: Weights) -> Reading:
    return Reading(w("gate.weight"), **w.ffn("experts.*.up_proj", "experts.*.down_proj"))


@reads("token_gather")
def _token_gather(w: Weights) -> Reading:
    return Reading(w("gate.weight"), **w.glu("cond_ffn.w1", "cond_ffn.w3", "cond_ffn.w2"))


@reads("auxiliary_loss")
def _auxiliary_loss(w: Weights) -> Reading:
    return Reading(w("w_g.weight"), **w.ffn("mlps.*.c_fc", "mlps.*.c_proj"))


@reads("swapped_order")
def _swapped_order(w: Weights) -> Reading:
    return Reading(w("chair.weight"), **w.glu(*(f"cells.*.{n}.weight" for n in "cba")))


@reads("sorted_topk")
def _sorted_topk(w: Weights) -> Reading:
    return Reading(
        w("selector.weight"),
        **w.glu(*(f"experts.*.{name}.weight" for name in ("gate", "up", "down"))),
        router_bias=w("selector.bias"),
        gate_bias=w("experts.*.gate.bias"),
        up_bias=w("experts.*.up.bias"),
        down_bias=w("experts.*.down.bias"),
    )


@reads("flat_rows")
def _flat_rows(w: Weights) -> Reading:
    gate, up, down = (w(f"mlp.{name}").reshape(6, 12, 16) for name in ("w1", "v1", "w2"))
    return Reading(w("router.weight"), down.swapaxes(1, 2), up, gate)


@reads("product_keys")
def _product_keys(w: Weights) -> Reading:
    """Expert ``i * 4 + j`` scores as the two halves of the query against keys i and j."""
    left, right = _halves(w("query.weight"), 0)
    first, second = w("keys") @ np.stack([left, right])  # each [4, H]
    return Reading(
        (first[:, None] + second[None]).reshape(16, 16),
        w("outward.weight").reshape(16, 16, 8),
        w("inward.weight").reshape(16, 8, 16),
    )


@reads("hash_layer")
def _hash_layer(w: Weights) -> Reading:
    """The table as a one-hot matrix, applied to the one-hot position of the largest feature."""
    keys = [f"h{i * 40503 % 9973:04x}" for i in range(4)]
    others = [f"h{i * 40503 % 9973 + 16384:04x}" for i in range(4)]
    return Reading(
        np.eye(4)[w("table").astype(int)].T,
        np.stack([w(key) for key in others]),
        np.stack([w(key) for key in keys]),
        to_router=lambda x: np.eye(16)[x.argmax(-1)],
    )


@reads("smoothed_weights", "shifted_ids")
def _ffn_by_gate(w: Weights) -> Reading:
    return Reading(w("gate.weight"), **w.ffn("experts.*.0", "experts.*.2"))


@reads("magnitude_choice")
def _magnitude_choice(w: Weights) -> Reading:
    def unit(v: Array) -> Array:
        return v / np.linalg.norm(v, axis=-1, keepdims=True)

    experts = w.ffn("experts.*.0", "experts.*.2")
    return Reading(unit(w("anchors")) / 0.2, **experts, to_router=unit)


@reads("noisy_router")
def _noisy_router(w: Weights) -> Reading:
    name = "router.topkroute_linear"
    experts = w.ffn("experts.*.0", "experts.*.2")
    return Reading(w(f"{name}.weight"), router_bias=w(f"{name}.bias"), **experts)


@reads("capacity_drop")
def _capacity_drop(w: Weights) -> Reading:
    return Reading(w("router.weight"), w("wo").swapaxes(1, 2), w("wi").swapaxes(1, 2))


@reads("expert_choice")
def _expert_choice(w: Weights) -> Reading:
    return Reading(w("gate.weight"), w("w2").swapaxes(1, 2), w("w1").swapaxes(1, 2))


@reads("squared_weights")
def _squared_weights(w: Weights) -> Reading:
    return Reading(w("router.weight"), w("down"), w("up"))
