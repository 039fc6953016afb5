"""Decide whether a proposal is right: original and replacement, side by side in float64.

A proposal is proven on the block itself and on copies with other parameters, because what is to be
shown is that the *code* means what the proposal says, not that one set of numbers agrees.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from moe_export.forms import Proof
from moe_export.moe import reference
from moe_export.rewrite.fused import FusedMoE, fused
from moe_export.rewrite.observe import BlockRunError, Float64Mode, run_block
from moe_export.rewrite.proposal import Proposal, Refusal, first_tensor_like
from moe_export.rewrite.rows import tensor_named

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class _Case:
    name: str
    block: nn.Module
    x: Tensor


def prove(proposal: Proposal, block: nn.Module, x: Tensor) -> Proof | Refusal:
    """Show that ``proposal`` equals the float64 ``block`` on inputs like ``x [..., H]``.

    The cases: the example's own tokens, random tokens, tokens that force every expert, skewed
    routing, one token alone, the same with perturbed parameters, and exact ties between experts
    (where any order of the tied is right, because the original's is the library's accident).  Of a
    router that is kept ties are not tried: what it does with them is the runtime's accident, too.

    The tolerance is the rounding of float64: ``32 eps (H + I + K) (1 + max |logit|)`` times the
    largest output.  The first three factors bound the error of sums of that many terms (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1), the fourth the condition of the
    exponentials in the router.
    """
    reached: set[int] = set()
    names: list[str] = []
    tokens, worst, allowed = 0, 0.0, 0.0
    for case in _cases(proposal, block, x):
        replacement = fused(proposal, case.block)
        expected, actual = _run(case.block, case.x), _run(replacement, case.x)
        tolerance = _tolerance(proposal, replacement, expected)
        error = _largest(expected - actual)
        if not error <= tolerance:
            return _disproof(case, error, tolerance)
        reached.update(replacement.seen["topk_ids"].unique().tolist())
        names.append(case.name)
        tokens += case.x.shape[:-1].numel()
        worst, allowed = max(worst, error), max(allowed, tolerance)
    missing = sorted(set(range(proposal.layer.router.num_experts)) - reached)
    if missing:
        return Refusal(f"experts {missing} could not be reached by any input that was tried")
    # Twins must stay within their group: exchanging them must not change a group's score.
    group_size = proposal.layer.router.num_experts // proposal.layer.router.num_groups
    apart = proposal.layer.router.num_groups == 1 or group_size % 2 == 0
    if apart and proposal.kept is None:
        refusal = _ties(proposal, block, x)
        if refusal is not None:
            return refusal
        names.append("ties")
    return Proof(
        cases=tuple(names),
        tokens=tokens,
        max_error=worst,
        tolerance=allowed,
        experts_reached=len(reached),
    )


def depends_on_other_tokens(block: nn.Module, x: Tensor) -> str | None:
    """A sentence with numbers if a token's output changes with its companions, else ``None``."""
    crowd = _skewed(x)
    together = _run(block, crowd)
    rows = crowd.reshape(-1, crowd.shape[-1])
    scale = _largest(together)
    for token in sorted({0, len(rows) // 2, len(rows) - 1}):
        alone = _run(block, _shaped(rows[token : token + 1], x))
        difference = _largest(alone.reshape(-1) - together.reshape(len(rows), -1)[token])
        if not difference <= 1e-9 * max(scale, 1e-300):
            return (
                "the output of a token depends on the other tokens in the batch, as with an expert "
                f"capacity that drops tokens: token {token} of {len(rows)} differs by "
                f"{difference:.1e} from the same token alone"
            )
    return None


def size_of(x: Tensor) -> float:
    """Root mean square of the numbers, 1 where there are none to speak of."""
    size = float(x.square().mean().sqrt()) if x.numel() else 0.0
    return size if 1e-3 < size < float("inf") else 1.0


def _cases(proposal: Proposal, block: nn.Module, x: Tensor) -> Iterator[_Case]:
    generator = torch.Generator().manual_seed(20)
    experts = proposal.layer.router.num_experts
    scale = size_of(x)
    random = torch.randn(4 * experts + 3, x.shape[-1], generator=generator, dtype=x.dtype) * scale
    yield _Case("example", block, x)
    yield _Case("random", block, _shaped(random, x))
    yield _Case("every expert", block, _shaped(_visits(proposal, block, random), x))
    yield _Case("skewed", block, _skewed(x))
    yield _Case("one token", block, _shaped(random[:1], x))
    for seed in (1, 2):
        other = _perturbed(block, seed)
        visits = _visits(proposal, other, random)
        yield _Case(f"perturbed parameters {seed}", other, _shaped(visits, x))


def _run(module: nn.Module, x: Tensor) -> Tensor:
    y = first_tensor_like(run_block(module, x), x)
    if y is None:
        raise BlockRunError(f"on tokens {list(x.shape)} it returns no row for each token")
    return y


def _shaped(rows: Tensor, like: Tensor) -> Tensor:
    """Rows ``[T, H]`` with as many leading axes as ``like``."""
    return rows.reshape(*(1,) * (like.dim() - 2), *rows.shape)


def _skewed(x: Tensor) -> Tensor:
    """Many near-copies of one token, so that one set of experts takes almost all."""
    rows = x.reshape(-1, x.shape[-1])
    generator = torch.Generator().manual_seed(21)
    noise = torch.randn(64, x.shape[-1], generator=generator, dtype=x.dtype)
    crowd = rows[:1] + 1e-3 * size_of(x) * noise
    return _shaped(torch.cat([crowd, rows[:5]]), x)


def _visits(proposal: Proposal, block: nn.Module, rows: Tensor) -> Tensor:
    """``rows`` and, for every expert they miss, a token pushed uphill until it chooses it."""
    router = fused(proposal, block)
    with torch.no_grad(), Float64Mode():
        missing = set(range(proposal.layer.router.num_experts))
        missing -= set(router.route(rows, router.logits(rows))[1].unique().tolist())
    found = [_climb(router, rows, expert) for expert in sorted(missing)]
    return torch.cat([rows, *found])


def _climb(router: FusedMoE, rows: Tensor, expert: int) -> Tensor:
    """A token that follows the gradient of one expert's lead over the mean logit."""
    with torch.no_grad(), Float64Mode():
        start = rows[router.logits(rows)[:, expert].argmax()]
    token = start.clone().reshape(1, -1).requires_grad_()
    optimizer = torch.optim.Adam([token], lr=0.3 * size_of(rows))
    for _ in range(200):
        with Float64Mode():
            logits = router.logits(token)
        with torch.no_grad():
            if expert in router.route(token, logits)[1]:
                break
        lead = logits[0, expert] - logits[0].logsumexp(0)
        optimizer.zero_grad()
        (-lead).backward()
        optimizer.step()
    return token.detach()


def _perturbed(block: nn.Module, seed: int) -> nn.Module:
    """A copy with every parameter and buffer of numbers moved by about a third of its own size."""
    other = copy.deepcopy(block)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            if not tensor.is_floating_point():
                continue
            size = float(tensor.square().mean().sqrt())
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.add_(noise * (0.3 * size + 1e-2))
    return other


def _ties(proposal: Proposal, block: nn.Module, x: Tensor) -> Refusal | None:
    """Make experts 2j and 2j+1 score alike; each token's output must fit one order of the tied."""
    twin = _with_twins(proposal, block)
    replacement = fused(proposal, twin)
    expected = _run(twin, x)
    with torch.no_grad(), Float64Mode():
        low = _relabelled(replacement, x, swap=False)
        high = _relabelled(replacement, x, swap=True)
    tolerance = _tolerance(proposal, replacement, expected)
    rows = expected.reshape(-1, expected.shape[-1])
    errors = torch.minimum((rows - low).abs().amax(1), (rows - high).abs().amax(1))
    if float(errors.max()) <= tolerance:
        return None
    token = int(errors.argmax())
    return Refusal(f"where experts tie it answers otherwise: token {token}, {errors.max():.1e}")


def _with_twins(proposal: Proposal, block: nn.Module) -> nn.Module:
    """A copy whose router cannot tell experts 2j and 2j+1 apart."""
    experts = proposal.layer.router.num_experts
    other = copy.deepcopy(block)
    logits = proposal.logits.on(other)
    tensors = [tensor for _, tensor in (*logits.named_parameters(), *logits.named_buffers())]
    for role in ("correction_bias", "expert_scale"):
        if role in proposal.weights:
            tensors += [tensor_named(other, n) for n in proposal.weights[role].sources()]
    even = torch.arange(experts - experts % 2) // 2 * 2
    with torch.no_grad():
        for tensor in tensors:
            axes = [axis for axis, size in enumerate(tensor.shape) if size == experts]
            for axis in axes[:1]:
                tensor.index_copy_(axis, torch.arange(len(even)), tensor.index_select(axis, even))
    return other


def _relabelled(replacement: FusedMoE, x: Tensor, *, swap: bool) -> Tensor:
    """The replacement's rows ``[T, Hout]`` with ties broken to the lower or the higher twin."""
    router = replacement.proposal.layer.router
    label = np.arange(router.num_experts)
    if swap:
        label[: router.num_experts // 2 * 2] ^= 1
    rows = x.reshape(-1, x.shape[-1])
    hidden = rows if replacement.hidden is None else replacement.hidden(rows)
    vectors = {
        role: getattr(replacement, role).numpy()[label]
        for role in ("correction_bias", "expert_scale")
        if getattr(replacement, role) is not None
    }
    weights, ids = reference.route(replacement.logits(rows).numpy()[:, label], router, **vectors)
    chosen = torch.from_numpy(label[ids].astype(np.int32))
    counts = torch.from_numpy(weights)
    mixed = replacement.with_identities(
        replacement.mix(hidden, chosen, counts), hidden, chosen, counts
    )
    return replacement.finish(rows, mixed)


def _tolerance(proposal: Proposal, replacement: FusedMoE, expected: Tensor) -> float:
    experts, top_k = proposal.layer.experts, proposal.layer.router.top_k
    terms = experts.hidden_size + experts.intermediate_size + top_k
    condition = 1.0 + _largest(replacement.seen.get("router_logits", torch.zeros(1)))
    scale = max(_largest(expected), _largest(replacement.seen.get("experts_y", expected)))
    return 32 * _EPS * terms * condition * scale


def _largest(tensor: Tensor) -> float:
    """Largest absolute value; NaN where there is one."""
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def _disproof(case: _Case, error: float, tolerance: float) -> Refusal:
    other = depends_on_other_tokens(case.block, case.x)
    return Refusal(
        other
        or f"the proposal failed its proof on the case {case.name!r}: outputs differ by "
        f"{error:.1e}, float64 rounding allows {tolerance:.1e}"
    )
