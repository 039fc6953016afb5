"""Propose what a block is: take it apart, then find the router and experts that reproduce it.

Every hypothesis is run by the NumPy oracle on what was observed.  The one that fits becomes the
proposal; ``prove.py`` decides whether it is believed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from moe_export.moe import reference
from moe_export.moe.layer import LayerSpec, RouterSpec
from moe_export.moe.recipe import Recipe, Reshaped
from moe_export.rewrite.anatomy import Anatomy, dissect, logits_values, output_value
from moe_export.rewrite.groups import ExpertGroup, UnevenExperts, expert_groups, named_source
from moe_export.rewrite.hypotheses import (
    ExpertsHypothesis,
    RouterHypothesis,
    experts_hypotheses,
    router_clues,
    router_hypotheses,
)
from moe_export.rewrite.middle import each_expert, with_behind, with_middle
from moe_export.rewrite.observe import Observation, Ref, observe
from moe_export.rewrite.proposal import Leaf, Proposal, Refusal
from moe_export.rewrite.rows import (
    NotRowwiseError,
    RowProgram,
    as_rows,
    row_program,
    tensor_named,
    tokens_of,
)

Array = npt.NDArray[Any]

# An observation agrees with a hypothesis to float64 rounding of sums over some thousand terms;
# the proof uses a derived bound, this only ranks hypotheses.
_FITS = 1e-10


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
        for anatomy in _readings(observation, block, group, output):
            if (random := observation.random_op()) is not None:
                return Refusal(f"it draws random numbers in eval mode ({random})")
            if isinstance(anatomy, str):
                refusal = Refusal(anatomy)
                continue
            found = _fit(_Evidence(observation, block, group, anatomy, output))
            if isinstance(found, Proposal):
                return found
            nearest = nearest or found
    return nearest or refusal


def _readings(
    observation: Observation, block: nn.Module, group: ExpertGroup, output: int
) -> Iterator[Anatomy | str]:
    """With a router over the group's experts; where there is none, with one over more."""
    found = False
    for anatomy in dissect(observation, group, output, group.num_experts):
        found = True
        yield anatomy
    if found:
        return
    matrices = [tensor for _, tensor in block.named_parameters() if tensor.dim() == 2]
    wider = {matrix.shape[0] for matrix in matrices if matrix.shape[0] > group.num_experts}
    for width in sorted(wider):
        yield from dissect(observation, group, output, width)


@dataclass(frozen=True)
class _Evidence:
    observation: Observation
    block: nn.Module
    group: ExpertGroup
    anatomy: Anatomy
    output: int

    def rows(self, index: int) -> Array:
        """A value of the observation as rows ``[T, D]``."""
        data = as_rows(self.observation.values[index].data, tokens_of(self.observation))
        if data is None:
            raise ValueError(f"value {index} has no rows")
        return data.numpy()

    def read(self, name: str) -> Array:
        return tensor_named(self.block, name).detach().numpy()

    @property
    def router_width(self) -> int:
        """How many experts the router chooses among."""
        return int(self.rows(self.anatomy.logits_value).shape[1])


@dataclass(frozen=True)
class _Fit:
    """A hypothesis and how far it is from what was observed, relative to the routed sum."""

    router: RouterHypothesis
    experts: ExpertsHypothesis
    hidden: RowProgram | None
    error: float


def _fit(evidence: _Evidence) -> Proposal | Refusal:
    routed = evidence.rows(evidence.anatomy.routed_value).copy()
    for index, _ in evidence.anatomy.shared:
        routed -= evidence.rows(index)
    nearest: _Fit | None = None
    for fit in _fits(evidence, routed):
        if fit.error <= _FITS:
            return _proposal(evidence, fit)
        if nearest is None or fit.error < nearest.error:
            nearest = fit
    if nearest is None:
        return Refusal("its experts are not feed-forward networks of one to three matrices")
    return Refusal(
        f"no known router and experts reproduce it; the nearest is "
        f"{nearest.router.spec.describe()} over {nearest.experts.spec.describe()} experts, "
        f"which differs by {nearest.error:.1e} of the largest output"
    )


@dataclass(frozen=True)
class _Routers:
    """Every router over ``width`` experts that fits the clues, and its choice of observed ones."""

    width: int
    routed: Array
    constants: tuple[float, ...]
    choices: tuple[tuple[RouterHypothesis, Array, Array], ...]

    @property
    def scale(self) -> float:
        return max(float(np.abs(self.routed).max()), 1e-300)

    def fits(self, experts: ExpertsHypothesis, each: Array, hidden: Array) -> Iterator[_Fit]:
        """Mixtures of what every expert makes, ``each [E, T, Hout]`` of ``hidden [T, H]``."""
        behind = self.width - len(each)
        if behind:
            if hidden.shape != each.shape[1:]:
                return
            each = np.concatenate([each, np.broadcast_to(hidden, (behind, *hidden.shape))])
        for router, weights, ids in self.choices:
            mixed = np.einsum("te,eto->to", _dense(weights, ids, self.width), each)
            scaled, error = _scaled(router, mixed, self.routed, self.constants)
            yield _Fit(scaled, experts, None, error / self.scale)


def _fits(evidence: _Evidence, routed: Array) -> Iterator[_Fit]:
    """Every hypothesis with its error, the plainest first."""
    num_experts = evidence.router_width
    logits = evidence.rows(evidence.anatomy.logits_value)
    clues = router_clues(evidence.observation, num_experts)
    vectors = evidence.anatomy.own_vectors
    routers = _Routers(
        num_experts,
        routed,
        clues.constants,
        tuple(
            (hypothesis, *_route(evidence, hypothesis, logits))
            for hypothesis in router_hypotheses(clues, num_experts, vectors)
        ),
    )
    group = _slots_of_experts(evidence)
    for index, program in evidence.anatomy.hidden:
        hidden = evidence.rows(index)
        candidates = list(
            experts_hypotheses(group, evidence.observation, hidden.shape[1], routed.shape[1])
        )
        for fit in itertools.chain(
            _fits_on_output(evidence, candidates, routers, hidden),
            _fits_with_middle(evidence, candidates, routers, hidden),
            _fits_on_input(evidence, candidates, routers, hidden),
        ):
            yield replace(fit, hidden=program)


def _fits_on_output(
    evidence: _Evidence, candidates: list[ExpertsHypothesis], routers: _Routers, hidden: Array
) -> Iterator[_Fit]:
    """Experts that the ``Experts`` op can say, their outputs weighted."""
    for experts in candidates:
        yield from routers.fits(experts, _each_expert(evidence, experts, hidden), hidden)


def _fits_with_middle(
    evidence: _Evidence, candidates: list[ExpertsHypothesis], routers: _Routers, hidden: Array
) -> Iterator[_Fit]:
    """Experts with something between or behind their matrices that the op has no name for."""
    for plain in candidates:
        if plain.spec.activation != "identity":
            continue
        experts = with_middle(plain, evidence.observation, evidence.read, hidden)
        if experts is None:
            continue
        each = each_expert(experts, evidence.block, evidence.read, hidden)
        yield from routers.fits(experts, each, hidden)
        experts = with_behind(experts, evidence.observation, each)
        if experts is not None:
            each = each_expert(experts, evidence.block, evidence.read, hidden)
            yield from routers.fits(experts, each, hidden)


def _fits_on_input(
    evidence: _Evidence, candidates: list[ExpertsHypothesis], routers: _Routers, hidden: Array
) -> Iterator[_Fit]:
    """Experts whose input is weighted, so that each choice has to be run by itself."""
    for plain in candidates if routers.width == evidence.group.num_experts else ():
        experts = replace(plain, spec=replace(plain.spec, weight_on="input"))
        built = {role: recipe.build(evidence.read) for role, recipe in experts.weights.items()}
        for router, weights, ids in routers.choices:
            mixed = reference.experts(hidden, ids, weights, experts.spec, **built)
            error = float(np.abs(mixed - routers.routed).max())
            yield _Fit(router, experts, None, error / routers.scale)


def _slots_of_experts(evidence: _Evidence) -> ExpertGroup:
    """The group less the slots that are not read, or belong to the router or what is beside it."""
    anatomy, group = evidence.anatomy, evidence.group
    programs = [anatomy.logits, *(program for _, program in anatomy.shared)]
    programs += [anatomy.after] if anatomy.after else []
    taken = {name for program in programs for name in program.reads()}
    readers = evidence.observation.consumers()
    read = {v.name for v in evidence.observation.values if v.name and readers[v.index]}

    def keep(slots: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(s for s in slots if read & set(s.sources()) and not taken & set(s.sources()))

    return ExpertGroup(group.num_experts, keep(group.matrices), keep(group.vectors))


def _route(evidence: _Evidence, hypothesis: RouterHypothesis, logits: Array) -> tuple[Array, Array]:
    bias, scale = (
        None if name is None else evidence.read(name).reshape(-1)
        for name in (hypothesis.correction_bias, hypothesis.expert_scale)
    )
    return reference.route(logits, hypothesis.spec, correction_bias=bias, expert_scale=scale)


def _each_expert(evidence: _Evidence, experts: ExpertsHypothesis, hidden: Array) -> Array:
    """What every expert makes of every row: ``[E, T, Hout]``."""
    built = {role: recipe.build(evidence.read) for role, recipe in experts.weights.items()}
    one = np.ones((hidden.shape[0], 1), hidden.dtype)
    return np.stack(
        [
            reference.experts(
                hidden, np.full(one.shape, expert, np.int32), one, experts.spec, **built
            )
            for expert in range(experts.spec.num_experts)
        ]
    )


def _dense(weights: Array, ids: Array, num_experts: int) -> Array:
    dense = np.zeros((weights.shape[0], num_experts), weights.dtype)
    np.put_along_axis(dense, ids.astype(np.int64), weights, axis=1)
    return dense


def _scaled(
    router: RouterHypothesis, mixed: Array, routed: Array, constants: tuple[float, ...]
) -> tuple[RouterHypothesis, float]:
    """The hypothesis with the routed scaling that fits, if that is a constant of the code."""
    power = float(np.vdot(mixed, mixed))
    factor = float(np.vdot(mixed, routed)) / power if power else 1.0
    for constant in constants:
        if constant != 1.0 and abs(factor - constant) <= 1e-9 * abs(constant):
            spec: RouterSpec = replace(router.spec, routed_scaling=constant)
            return replace(router, spec=spec), float(np.abs(mixed * constant - routed).max())
    return router, float(np.abs(mixed - routed).max())


def _proposal(evidence: _Evidence, fit: _Fit) -> Proposal:
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
        output=_output(evidence, fit),
    )


def _vectors(evidence: _Evidence, router: RouterHypothesis) -> dict[str, Recipe]:
    """Recipes of the router's ``[E]`` inputs."""
    names = {"correction_bias": router.correction_bias, "expert_scale": router.expert_scale}
    flat = (evidence.router_width,)
    return {
        role: Reshaped(named_source(evidence.block, name), flat)
        for role, name in names.items()
        if name is not None
    }


def _output(evidence: _Evidence, fit: _Fit) -> Any:
    """The return value with each tensor named by what it is."""
    logits = evidence.rows(evidence.anatomy.logits_value)
    weights, ids = _route(evidence, fit.router, logits)

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
    return np.allclose(data.reshape(rows.shape).numpy(), rows, rtol=_FITS, atol=0)
