"""One block: propose, prove, and say which of the two failed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moe_export.forms import Proof
from moe_export.rewrite.kept import propose_kept
from moe_export.rewrite.observe import BlockRunError, run_block
from moe_export.rewrite.proposal import Proposal, Refusal
from moe_export.rewrite.propose import propose
from moe_export.rewrite.prove import depends_on_other_tokens, prove, size_of
from moe_export.rewrite.register import registered_proposal
from moe_export.rewrite.rows import tensor_named


@dataclass(frozen=True)
class Recognition:
    """A block that is proven to be a router and experts."""

    proposal: Proposal
    proof: Proof
    found_by: str
    """``structure`` or ``registered``."""


def recognise(block: nn.Module, example: Tensor) -> Recognition | Refusal:
    """What ``block`` is, proven in float64, or why that could not be shown.

    ``example [..., H]`` is an input the block accepts; the block is left alone.
    """
    twin = copy.deepcopy(block).double().eval().requires_grad_(False)
    example = example.detach().double()
    registered = registered_proposal(twin)
    try:
        if registered is not None:
            return _decide(registered, twin, example, "registered")
        return _by_structure(twin, example)
    except BlockRunError as error:
        return Refusal(str(error), routed=registered is not None)


def _by_structure(block: nn.Module, example: Tensor) -> Recognition | Refusal:
    x = _probe_input(block, example)
    run_block(block, x)  # what fails here is the block's own objection, not a bug of ours
    varied = _varied(block)
    found = propose(varied, x)
    decision = found if isinstance(found, Refusal) else _decide(found, block, example, "structure")
    if isinstance(decision, Recognition) or not decision.routed:
        return decision
    kept = propose_kept(varied, x, decision.reason)
    if isinstance(kept, Refusal):
        return _explained(kept, block, x)
    shown = _decide(kept, block, example, "structure")
    if isinstance(shown, Recognition):
        return shown
    reason = f"{decision.reason}; with its own router, {shown.reason}"
    return _explained(Refusal(reason), block, x)


def _varied(block: nn.Module) -> nn.Module:
    """The block with other numbers in tensors that hold one number only, such as zeros or ones.

    A bias of zeros is added without a trace, as is a scale of ones multiplied.  What is proposed
    from such a run would leave them out; it is the block with its own numbers that is proven.
    """
    even = [name for name, tensor in _numbers(block) if bool((tensor == tensor.flatten()[0]).all())]
    if not even:
        return block
    varied = copy.deepcopy(block)
    generator = torch.Generator().manual_seed(23)
    for name in even:
        tensor = tensor_named(varied, name)
        more = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) / 8
        # Positive numbers stay so: one may be what keeps a denominator from 0.
        tensor.copy_(torch.where(tensor == 0, more, tensor * (1 + more)))
    return varied


def _numbers(block: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in (*block.named_parameters(), *block.named_buffers()):
        if tensor.is_floating_point() and tensor.numel():
            yield name, tensor


def _decide(
    proposal: Proposal, block: nn.Module, example: Tensor, found_by: str
) -> Recognition | Refusal:
    proof = prove(proposal, block, example)
    return proof if isinstance(proof, Refusal) else Recognition(proposal, proof, found_by)


def _explained(refusal: Refusal, block: nn.Module, x: Tensor) -> Refusal:
    """A refusal with the deeper reason, where tokens turn out to depend on each other."""
    if not refusal.routed or "random" in refusal.reason or "experts differ" in refusal.reason:
        return refusal
    other = depends_on_other_tokens(block, x)
    return refusal if other is None else Refusal(other)


def _probe_input(block: nn.Module, example: Tensor) -> Tensor:
    """Random tokens of the example's scale, as many as no axis of the block's tensors has.

    A count of its own keeps "one row for each token" unmistakable in the observation.
    """
    sizes = {size for tensor in block.state_dict().values() for size in tensor.shape}
    sizes |= {size * other for size in sizes for other in (2, 3)}
    length = next(n for n in range(11, 10_000) if n not in sizes and 3 * n not in sizes)
    generator = torch.Generator().manual_seed(10)
    lead = [1] * (example.dim() - 3) + ([3, length] if example.dim() > 2 else [3 * length])
    x = torch.randn(*lead, example.shape[-1], generator=generator, dtype=torch.float64)
    return x * size_of(example)
