"""What training minimises: wrong answers, and experts that stand idle."""

from __future__ import annotations

import torch
import torch.nn.functional as F

NOT_SCORED = -100  # what F.cross_entropy ignores by default


def answer_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of ``logits [B, S, V]`` where ``targets [B, S]`` is not NOT_SCORED."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NOT_SCORED)


def load_balancing_loss(
    router_logits: torch.Tensor, top_k: int, counted: torch.Tensor | None = None
) -> torch.Tensor:
    """``E * sum_e f_e * P_e``: 1 when tokens spread evenly, up to E / top_k when they crowd.

    ``f_e`` is the share of all assignments that went to expert e, and ``P_e`` is the mean of its
    router probability over the tokens.  The gradient flows through ``P`` alone.  Only the tokens
    of ``router_logits [T, E]`` that ``counted [T]`` marks take part; by default all do.

    W. Fedus, B. Zoph, N. Shazeer, "Switch Transformers", JMLR 2022, equations 4-6
    (https://arxiv.org/abs/2101.03961), with ``f`` over top-k assignments as in D. Lepikhin et
    al., "GShard", ICLR 2021 (https://arxiv.org/abs/2006.16668).
    """
    if counted is not None:
        router_logits = router_logits[counted]
    num_experts = router_logits.shape[-1]
    router_probs = F.softmax(router_logits, dim=-1, dtype=torch.float32)
    topk_ids = torch.topk(router_probs, top_k, dim=-1).indices
    assigned = F.one_hot(topk_ids, num_experts).flatten(0, 1).float().mean(0)
    return num_experts * (assigned * router_probs.mean(0)).sum()
