"""Routers that no op says, as people might write them, over experts that the op knows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN, INNER, EXPERTS = 16, 12, 6


class OddRouter(nn.Module):
    """A mixture as any other, but for how ``choose`` chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.empty(EXPERTS, INNER, HIDDEN))
        self.down = nn.Parameter(torch.empty(EXPERTS, HIDDEN, INNER))

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``topk_weights [T, K]`` and ``topk_ids [T, K]`` of ``x [T, H]``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        weights, ids = self.choose(rows)
        y = torch.zeros_like(rows)
        for expert in range(EXPERTS):
            token, place = torch.where(ids == expert)
            made = F.linear(F.silu(F.linear(rows[token], self.up[expert])), self.down[expert])
            y.index_add_(0, token, made * weights[token, place, None])
        return y.view_as(x)


class NearTheBest(OddRouter):
    """Only experts whose logit is near the best share the weight, and one that is far gets none.

    A second choice that is masked weighs the smallest number and not 0.
    """

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.gate(x)
        best = logits.max(dim=-1, keepdim=True).values
        near = logits.masked_fill(best - logits > 1.5, float("-inf"))
        weights, ids = near.softmax(-1).topk(2, dim=-1)
        return weights, ids


class RarelyMasked(OddRouter):
    """A mask that hides nothing for any token of an ordinary size."""

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.gate(x)
        logits = logits.masked_fill(logits > 60.0, 0.0)
        weights, ids = logits.softmax(-1).topk(2, dim=-1)
        return weights.sqrt(), ids


class Tempered(OddRouter):
    """A temperature for each token, made of the token by weights of the router's own."""

    def __init__(self) -> None:
        super().__init__()
        self.heat = nn.Linear(HIDDEN, 1)
        self.noise = nn.Parameter(torch.empty(EXPERTS, HIDDEN))

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.gate(x)
        shifted = logits + 0.3 * torch.tanh(F.linear(x, self.noise))
        weights, ids = shifted.topk(2, dim=-1)
        return (weights / F.softplus(self.heat(x))).softmax(-1), ids


class ByGroups(OddRouter):
    """The best of each of three groups of two, weighed together."""

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.gate(x).unflatten(-1, (3, 2))
        best, place = logits.max(dim=-1)
        ids = place + 2 * torch.arange(3)
        return best.softmax(dim=-1), ids


class Unweighted(OddRouter):
    """The second best expert, alone and with no weight at all."""

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ids = self.gate(x).topk(2, dim=-1).indices[:, 1:]
        return torch.ones_like(ids, dtype=x.dtype), ids


class Scattered(OddRouter):
    """Weights in a row of all experts, of a tensor that is made as long as there are tokens."""

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.gate(x)
        chosen, ids = logits.topk(2, dim=-1)
        row = torch.zeros(x.shape[0], EXPERTS, dtype=x.dtype)
        row = row.scatter(1, ids, torch.relu(chosen) + 0.1)
        row = row / row.sum(-1, keepdim=True).sqrt()
        token = torch.arange(x.shape[0])[:, None]
        return row[token, ids], ids


ODD = (NearTheBest, RarelyMasked, Tempered, ByGroups, Unweighted, Scattered)


class AcrossTokens(OddRouter):
    """Logits less what all tokens have on average: a token alone is another token."""

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.gate(x)
        weights, ids = (logits - logits.mean(0)).softmax(-1).topk(2, dim=-1)
        return weights.sqrt(), ids


class Branching(OddRouter):
    """Python decides by the number of tokens what the router is."""

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.gate(x)
        weights, ids = logits.softmax(-1).topk(2, dim=-1)
        return (weights.sqrt() if len(x) > 8 else weights), ids


class Frozen(OddRouter):
    """A number of one run that gets into the graph as if it were the code's."""

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.gate(x)
        weights, ids = logits.softmax(-1).topk(2, dim=-1)
        return weights * float(logits.max()), ids


def lively(kind: type[OddRouter]) -> OddRouter:
    """A block with weights that reach every expert, the same at every call."""
    block = kind()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in block.parameters():
            spread = 1.5 * parameter.shape[-1] ** -0.5
            parameter.normal_(0, spread, generator=generator)
    return block.eval()


def rows(*shape: int) -> Tensor:
    """Tokens ``[*shape, H]``."""
    return torch.randn(*shape, HIDDEN, generator=torch.Generator().manual_seed(5))
