"""The blocks that must be recognised, each with its semantics, and two for their author to name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from moe_export.moe.layer import ExpertsSpec, RouterSpec

from . import (
    auxiliary_loss,
    clamped_swiglu,
    deepseek_v3_like,
    dense_einsum,
    dense_linear,
    epsilon_denominator,
    ernie_like,
    flat_rows,
    gemma4_like,
    gpt_oss_like,
    group_limited_greedy,
    hard_top1,
    listed_experts,
    llama4_like,
    mixtral_like,
    normed_router,
    onehot_dispatch,
    prenorm_residual,
    registered,
    relu_squared,
    separate_modules,
    sequential_experts,
    shared_expert_added,
    shared_expert_gated,
    softmax_over_chosen,
    sorted_dispatch,
    sorted_topk,
    stacked_bmm,
    stacked_transposed,
    swapped_order,
    switch_top1,
    token_gather,
    topk_unnormalized,
)
from .case import ZooCase, built

Sizes = tuple[int, int, int]


def _block(
    name: str,
    make: Callable[[], nn.Module],
    router: RouterSpec,
    experts: tuple[Sizes, dict[str, Any]],
    *,
    lead: tuple[int, ...] = (2, 7),
    shared: bool = False,
    spread: float = 1.5,
) -> ZooCase:
    (hidden, inner, out), attributes = experts
    spec = ExpertsSpec(
        num_experts=router.num_experts,
        hidden_size=hidden,
        intermediate_size=inner,
        output_size=out,
        **attributes,
    )
    return ZooCase(
        name, partial(built, make, name, spread), (*lead, hidden), router, spec, shared, None
    )


def _router(num_experts: int, top_k: int, score: Any = "softmax", **attributes: Any) -> RouterSpec:
    return RouterSpec(num_experts=num_experts, top_k=top_k, score=score, **attributes)


def _glu(hidden: int, inner: int, activation: str = "silu", **more: Any) -> Any:
    return (hidden, inner, hidden), {"activation": activation, **more}


def _ffn(hidden: int, inner: int, activation: str, *, bias: bool = False) -> Any:
    flags = {"has_up_bias": bias, "has_down_bias": bias}
    return (hidden, inner, hidden), {"activation": activation, "gated": False, **flags}


def _linear(hidden: int, out: int, *, bias: bool) -> Any:
    return (hidden, 0, out), {"activation": "identity", "gated": False, "has_down_bias": bias}


RECOGNISED: tuple[ZooCase, ...] = (
    _block(
        "dense_linear",
        partial(dense_linear.MixtureOfExperts, 16, 10, 4),
        _router(4, 4),
        _linear(16, 10, bias=True),
    ),
    _block(
        "dense_einsum",
        partial(dense_einsum.SoftMixture, 6, 16),
        _router(6, 6),
        _linear(16, 16, bias=False),
    ),
    _block(
        "switch_top1",
        partial(switch_top1.SwitchFFN, 24, 16, 8),
        _router(8, 1),
        _ffn(24, 16, "relu"),
    ),
    _block(
        "hard_top1",
        partial(hard_top1.HardMoE, 20, 24, 4),
        _router(4, 1, "softmax_topk"),
        _ffn(20, 24, "gelu", bias=True),
    ),
    _block(
        "mixtral_like",
        partial(mixtral_like.SparseMoeBlock, 16, 24, 8, 2),
        _router(8, 2, normalize=True),
        _glu(16, 24),
    ),
    _block(
        "topk_unnormalized",
        partial(topk_unnormalized.OlmoLikeMoe, 20, 12, 8, 3),
        _router(8, 3),
        _glu(20, 12),
    ),
    _block(
        "router_in_float32",
        partial(topk_unnormalized.OlmoLikeMoe, 20, 12, 8, 3, torch.float32),
        _router(8, 3),
        _glu(20, 12),
    ),
    _block(
        "softmax_over_chosen",
        partial(softmax_over_chosen.SparseMoE, 12, 6, 2),
        _router(6, 2, "softmax_topk"),
        _ffn(12, 24, "relu", bias=True),
    ),
    _block(
        "deepseek_v3_like",
        partial(deepseek_v3_like.DeepseekMoE, 16, 12, 16, 4, 4, 2, 2.5),
        _router(
            16,
            4,
            "sigmoid",
            normalize=True,
            normalize_eps=1e-20,
            num_groups=4,
            topk_groups=2,
            group_score="top2_sum",
            routed_scaling=2.5,
            has_correction_bias=True,
        ),
        _glu(16, 12),
    ),
    _block(
        "group_limited_greedy",
        partial(
            group_limited_greedy.GroupLimitedMoE,
            *(16, 8, 12),
            k=3,
            groups=4,
            limit_groups=2,
            route_scale=1.5,
        ),
        _router(12, 3, num_groups=4, topk_groups=2, routed_scaling=1.5),
        _glu(16, 8),
    ),
    _block(
        "onehot_dispatch",
        partial(onehot_dispatch.EinsumMoE, 16, 8, 4, 2),
        _router(4, 2, normalize=True),
        _ffn(16, 8, "gelu"),
    ),
    _block(  # 2I = H: the fused matrix is square
        "stacked_bmm",
        partial(stacked_bmm.BatchedExpertsMoE, 16, 8, 6, 2),
        _router(6, 2, normalize=True),
        _glu(16, 8),
    ),
    _block(  # I = H: the down projection is square
        "stacked_transposed",
        partial(stacked_transposed.TransposedMoE, 12, 12, 5, 2),
        _router(5, 2, normalize=True),
        _glu(12, 12),
    ),
    _block(  # a spread at which the clamps bite
        "gpt_oss_like",
        partial(gpt_oss_like.MLPBlock, 16, 12, 4, 2),
        _router(4, 2, "softmax_topk"),
        _glu(
            *(16, 12, "swiglu_clamped"),
            gate_layout="interleaved",
            has_up_bias=True,
            has_down_bias=True,
        ),
        spread=4.0,
    ),
    _block(
        "clamped_swiglu",
        partial(
            clamped_swiglu.ClampedMoE,
            clamped_swiglu.MoEConfig(20, 12, 6, 2, swiglu_alpha=1.25, swiglu_limit=2.0),
        ),
        _router(6, 2, "sigmoid", normalize=True),
        _glu(20, 12, "swiglu_clamped", alpha=1.25, limit=2.0),
    ),
    _block(
        "shared_expert_gated",
        partial(shared_expert_gated.SharedGateMoeBlock, 16, 12, 20, 8, 2),
        _router(8, 2),
        _glu(16, 12),
        shared=True,
    ),
    _block(
        "shared_expert_added",
        partial(shared_expert_added.MoEFeedForward, 20, 8, 6, 2, 3),
        _router(6, 3, "sigmoid", normalize=True),
        _glu(20, 8),
        shared=True,
    ),
    _block(
        "llama4_like",
        partial(llama4_like.TextMoe, 16, 24, 4),
        _router(4, 1, "sigmoid_topk"),
        _glu(16, 24, weight_on="input"),
        shared=True,
    ),
    _block(
        "separate_modules",
        partial(separate_modules.MoE, 16, 20, 8, 2),
        _router(8, 2, normalize=True),
        _glu(16, 20),
        lead=(15,),
    ),
    _block(
        "normed_router",
        partial(normed_router.NormedRouterMoE, 16, 24, 6, 2, temperature=0.7),
        _router(6, 2),
        _ffn(16, 24, "silu", bias=True),
    ),
    _block(
        "sequential_experts",
        partial(sequential_experts.SequentialMoE, 12, 20, 5, 2),
        _router(5, 2),
        _ffn(12, 20, "gelu", bias=True),
    ),
    _block(
        "prenorm_residual",
        partial(prenorm_residual.MoESubLayer, 16, 24, 8, 2),
        _router(8, 2, normalize=True),
        _ffn(16, 24, "gelu", bias=True),
        shared=True,
    ),
    _block(
        "epsilon_denominator",
        partial(epsilon_denominator.EpsMoE, 16, 12, 6, 2),
        _router(6, 2, normalize=True, normalize_eps=1e-6),
        _glu(16, 12, "gelu"),
    ),
    _block(
        "ernie_like",
        partial(ernie_like.ErnieSparseMoe, 16, 12, 8, 2, norm_min=0.4),
        _router(8, 2, normalize=True, normalize_min=0.4, has_correction_bias=True),
        _glu(16, 12, has_up_bias=True, has_down_bias=True),
    ),
    _block(
        "parameter_list",
        partial(listed_experts.ParameterListMoE, 12, 20, 6, 2),
        _router(6, 2),
        _ffn(12, 20, "silu"),
    ),
    _block(
        "module_dict",
        partial(listed_experts.ModuleDictMoE, 16, 12, ("syntax", "number", "name", "colour"), 2),
        _router(4, 2, "softmax_topk"),
        _ffn(16, 12, "relu", bias=True),
    ),
    _block(
        "gemma4_like",
        partial(gemma4_like.GemmaMoe, 16, 12, 8, 2),
        _router(8, 2, normalize=True, has_expert_scale=True),
        _glu(16, 12, "gelu_tanh"),
    ),
    _block(
        "relu_squared",
        partial(relu_squared.NemotronLikeMoE, 16, 24, 8, 3, 2.0),
        _router(8, 3, "sigmoid", normalize=True, routed_scaling=2.0),
        _ffn(16, 24, "relu2"),
    ),
    _block(  # E = H: the router's matrix is square
        "token_gather",
        partial(token_gather.MOEFeedForward, 12, 20, 12, 2),
        _router(12, 2, normalize=True),
        _glu(12, 20),
        lead=(15,),
    ),
    _block(
        "sorted_dispatch",
        partial(sorted_dispatch.GroupedMoE, 16, 12, 8, 3, 1.25),
        _router(8, 3, routed_scaling=1.25),
        _glu(16, 12),
    ),
    _block(
        "auxiliary_loss",
        partial(auxiliary_loss.MoELayer, 16, 24, 6, 2),
        _router(6, 2, normalize=True),
        _ffn(16, 24, "gelu_tanh", bias=True),
    ),
    _block(
        "swapped_order",
        partial(swapped_order.Committee, 16, 5, 2),
        _router(5, 2, "softmax_topk"),
        _glu(16, 16),
    ),
    _block(
        "sorted_topk",
        partial(sorted_topk.SortRoutedMoE, 32, 8, 7, 3),
        _router(7, 3),
        _glu(32, 8, "relu", has_up_bias=True, has_down_bias=True),
    ),
    _block(
        "flat_rows",
        partial(flat_rows.FlatFFN, 16, 12, 6, 2),
        _router(6, 2, normalize=True),
        _glu(16, 12),
    ),
)

REGISTERED: tuple[ZooCase, ...] = (
    _block(
        "product_keys",
        partial(registered.ProductKeyMoE, 16, 8, 4, 3),
        _router(16, 3, "softmax_topk"),
        _ffn(16, 8, "relu"),
    ),
    _block(
        "hash_layer",
        partial(registered.HashLayerMoE, 16, 12, 4),
        _router(4, 1, "softmax_topk"),
        _ffn(16, 12, "silu"),
    ),
)
