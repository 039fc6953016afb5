"""Propose what a block is: take it apart, then find the router and experts that reproduce it.

Every hypothesis is run by the NumPy oracle on what was observed.  The one that fits becomes the
proposal; ``prove.py`` decides whether it is believed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from moe_export.moe import reference
from moe_export.moe.layer import LayerSpec
from moe_export.moe.recipe import Recipe, Reshaped
from moe_export.rewrite.anatomy import logits_values, output_value
from moe_export.rewrite.evidence import Evidence, readings
from moe_export.rewrite.groups import UnevenExperts, expert_groups, named_source
from moe_export.rewrite.hypotheses import RouterHypothesis, router_clues, router_hypotheses
from moe_export.rewrite.mixtures import FITS, Fit, Routers, mixtures
from moe_export.rewrite.observe import Ref, observe
from moe_export.rewrite.proposal import Leaf, Proposal, Refusal
from moe_export.rewrite.rows import NotRowwiseError, row_program

Array = npt.NDArray[Any]


def propose(block: nn.Module, x: Tensor) -> Proposal | Refusal:
    """What a float64 ``block`` with inputs like ``x [..., H]`` may be, or why nothing fits."""
    observation = observe(block, x)
    output = output_value(observation)
    if output is None:
        return Refusal("it returns no tensor with a row for each token", routed=False)
    refusal = Refusal("no router was found: nothing chooses among its parts", routed=False)
    nearest: Refusal | None = None
    for group in expert_groups(block):
        if isinstance(group, UnevenExperts):
            if logits_values(observation, group.count):
                refusal = Refusal(group.reason)
            continue
        for anatomy in readings(observation, block, group, output):
            if (random := observation.random_op()) is not None:
                return Refusal(f"it draws random numbers in eval mode ({random})")
            if isinstance(anatomy, str):
                refusal = Refusal(anatomy)
                continue
            found = _fit(Evidence(observation, block, group, anatomy, output))
            if isinstance(found, Proposal):
                return found
            nearest = nearest or found
    return nearest or refusal


def _fit(evidence: Evidence) -> Proposal | Refusal:
    nearest: Fit | None = None
    for fit in mixtures(evidence, _known_routers(evidence)):
        if fit.error <= FITS:
            weights, ids = _route(evidence, fit.router)
            return proposal_of(evidence, fit, weights, ids)
        if nearest is None or fit.error < nearest.error:
            nearest = fit
    if nearest is None:
        return Refusal("its experts are not feed-forward networks of one to three matrices")
    return Refusal(
        f"no known router and experts reproduce it; the nearest is "
        f"{nearest.router.spec.describe()} over {nearest.experts.spec.describe()} experts, "
        f"which differs by {nearest.error:.1e} of the largest output"
    )


def _known_routers(evidence: Evidence) -> Routers:
    """Every router of the op that fits the clues."""
    clues = router_clues(evidence.observation, evidence.router_width)
    hypotheses = router_hypotheses(clues, evidence.router_width, evidence.anatomy.own_vectors)
    return Routers(
        evidence.router_width,
        evidence.routed,
        clues.constants,
        tuple((hypothesis, *_route(evidence, hypothesis)) for hypothesis in hypotheses),
    )


def _route(evidence: Evidence, hypothesis: RouterHypothesis) -> tuple[Array, Array]:
    logits = evidence.rows(evidence.anatomy.logits_value)
    bias, scale = (
        None if name is None else evidence.read(name).reshape(-1)
        for name in (hypothesis.correction_bias, hypothesis.expert_scale)
    )
    return reference.route(logits, hypothesis.spec, correction_bias=bias, expert_scale=scale)


def proposal_of(evidence: Evidence, fit: Fit, weights: Array, ids: Array) -> Proposal:
    """The block as a fit has it, which chose ``ids [T, K]`` for the observed tokens."""
    shared = tuple(program for _, program in evidence.anatomy.shared)
    after = evidence.anatomy.after
    beside = shared if after is None else (*shared, after)
    read = {name for program in beside for name in program.reads()}
    return Proposal(
        layer=LayerSpec(
            router=fit.router.spec,
            experts=fit.experts.spec,
            has_shared_path=bool(beside),
            shared_parameters=sum(evidence.read(name).size for name in read),
        ),
        logits=evidence.anatomy.logits,
        hidden=fit.hidden,
        shared=shared,
        after=after,
        middle=fit.experts.middle,
        behind=fit.experts.behind,
        weights=fit.experts.weights | _vectors(evidence, fit.router),
        output=_output(evidence, weights, ids),
    )


def _vectors(evidence: Evidence, router: RouterHypothesis) -> dict[str, Recipe]:
    """Recipes of the router's ``[E]`` inputs."""
    names = {"correction_bias": router.correction_bias, "expert_scale": router.expert_scale}
    flat = (evidence.router_width,)
    return {
        role: Reshaped(named_source(evidence.block, name), flat)
        for role, name in names.items()
        if name is not None
    }


def _output(evidence: Evidence, weights: Array, ids: Array) -> Any:
    """The return value with each tensor named by what it is."""
    logits = evidence.rows(evidence.anatomy.logits_value)
    lead = evidence.observation.values[evidence.observation.input].data.shape[:-1]

    def flat(data: Tensor) -> bool:
        return data.shape[:-1] != lead

    def name(leaf: Any) -> Any:
        if not isinstance(leaf, Ref):
            return leaf
        data = evidence.observation.values[leaf.index].data
        if leaf.index == evidence.output:
            return Leaf("y", flat=flat(data))
        known = {"router_logits": logits, "topk_ids": ids, "topk_weights": weights}
        for kind, rows in known.items():
            if _is(data, rows):
                return Leaf(kind, flat=flat(data), dtype=data.dtype)
        try:
            program = row_program(evidence.observation, leaf.index)
        except NotRowwiseError:
            return Leaf("unused", dtype=data.dtype, shape=tuple(data.shape))
        return Leaf("rows", flat=flat(data), dtype=data.dtype, rows=program)

    return tree_map(name, evidence.observation.output)


def _is(data: Tensor, rows: Array) -> bool:
    """Whether a returned tensor holds just these rows ``[T, D]``."""
    if data.numel() != rows.size or data.shape[-1] != rows.shape[-1]:
        return False
    return np.allclose(data.reshape(rows.shape).numpy(), rows, rtol=FITS, atol=0)
