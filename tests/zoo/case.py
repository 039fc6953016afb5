"""What a zoo case is, how its weights are drawn, and when two specifications mean the same."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from moe_export.moe.layer import ExpertsSpec, RouterSpec


@dataclass(frozen=True)
class ZooCase:
    """A block as somebody would write it, and what an honest reader should say about it.

    ``router`` and ``experts`` are the semantics that must be recognised; both are ``None`` for a
    look-alike that no router of the ops is, and ``refused_because`` then is a regular expression
    that the reason given must contain (``.*`` where passing the module over in silence is right,
    too).
    Compare specifications through ``canonical_router`` and ``canonical_experts``.
    """

    name: str
    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    router: RouterSpec | None
    experts: ExpertsSpec | None
    has_shared_path: bool
    refused_because: str | None


def built(make: Callable[[], nn.Module], name: str, spread: float) -> nn.Module:
    """``make()`` in eval mode with lively weights, the same at every call.

    Matrices are normal with ``spread / sqrt(columns)``, so that unit inputs give logits of about
    ``spread``; vectors and biases move by 0.3 from where they were.  A selection bias moves by 0.1
    only: every expert must stay in reach.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        block = make()
        with torch.no_grad():
            for path, tensor in [*block.named_parameters(), *block.named_buffers()]:
                if "correction_bias" in path:
                    tensor.normal_(std=0.1)
                elif isinstance(tensor, nn.Parameter):
                    _enliven(path, tensor, spread)
    return block.eval()


def _enliven(path: str, tensor: torch.Tensor, spread: float) -> None:
    if tensor.dim() < 2 or "bias" in path:
        tensor.add_(torch.randn_like(tensor), alpha=0.3)
    else:
        tensor.normal_(std=spread / tensor.shape[-1] ** 0.5)


def canonical_router(router: RouterSpec) -> RouterSpec:
    """The simplest specification that chooses and weighs alike in exact arithmetic.

    A softmax over all experts that is renormalised over the chosen is a softmax over the chosen;
    a sigmoid of the chosen is the sigmoid; one renormalised expert has weight 1; groups that are
    all kept are no groups; an epsilon below 1e-17 is not seen beside a sum of scores in float64.
    """
    if router.normalize_eps < 1e-17:
        router = replace(router, normalize_eps=0.0)
    if not router.normalize:
        router = replace(router, normalize_eps=0.0, normalize_min=0.0)
    if router.topk_groups == router.num_groups:
        router = replace(router, num_groups=1, topk_groups=1)
    if router.num_groups == 1:
        router = replace(router, group_score="max")
    if router.top_k == router.num_experts:
        router = replace(router, has_correction_bias=False)
    exact = router.normalize and not router.normalize_eps and not router.normalize_min
    by_logit = not router.has_correction_bias and router.group_score == "max"
    if router.score == "sigmoid_topk" and by_logit:
        router = replace(router, score="sigmoid")
    if exact and by_logit and (router.score.startswith("softmax") or router.top_k == 1):
        router = replace(router, score="softmax_topk", normalize=False)
    if router.score == "softmax_topk" and router.top_k == router.num_experts:
        router = replace(router, score="softmax")
    return router


def canonical_experts(experts: ExpertsSpec, router: RouterSpec) -> ExpertsSpec:
    """The same experts with every attribute that has no effect at its default.

    A bias-free network of linear and ungated ReLU layers lets a weight through, and a weight of 1
    may stand on either side.
    """
    if experts.activation != "swiglu_clamped":
        experts = replace(experts, alpha=1.702, limit=7.0)
    if not experts.gated:
        experts = replace(experts, gate_layout="concatenated")
    biased = experts.has_up_bias or experts.has_down_bias
    homogeneous = not (experts.gated or biased) and experts.activation in ("identity", "relu")
    unscaled = not router.has_expert_scale and router.routed_scaling == 1.0
    canonical = canonical_router(router)
    weightless = unscaled and canonical.top_k == 1 and canonical.score == "softmax_topk"
    if homogeneous or weightless:
        experts = replace(experts, weight_on="output")
    return experts
