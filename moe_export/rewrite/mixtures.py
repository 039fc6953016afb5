"""Routers and experts put together, beside what was observed."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from moe_export.moe import reference
from moe_export.moe.layer import RouterSpec
from moe_export.rewrite.evidence import Evidence
from moe_export.rewrite.groups import ExpertGroup
from moe_export.rewrite.hypotheses import ExpertsHypothesis, RouterHypothesis, experts_hypotheses
from moe_export.rewrite.middle import each_expert, with_behind, with_middle
from moe_export.rewrite.rows import RowProgram

Array = npt.NDArray[Any]

# An observation agrees with a hypothesis to float64 rounding of sums over some thousand terms;
# the proof uses a derived bound, this only ranks hypotheses.
FITS = 1e-10


@dataclass(frozen=True)
class Fit:
    """A hypothesis and how far it is from what was observed, relative to the routed sum."""

    router: RouterHypothesis
    experts: ExpertsHypothesis
    hidden: RowProgram | None
    error: float


@dataclass(frozen=True)
class Routers:
    """Every router over ``width`` experts that fits the clues, and its choice of observed ones."""

    width: int
    routed: Array
    constants: tuple[float, ...]
    choices: tuple[tuple[RouterHypothesis, Array, Array], ...]

    @property
    def scale(self) -> float:
        return max(float(np.abs(self.routed).max()), 1e-300)

    def fits(self, experts: ExpertsHypothesis, each: Array, hidden: Array) -> Iterator[Fit]:
        """Mixtures of what every expert makes, ``each [E, T, Hout]`` of ``hidden [T, H]``."""
        behind = self.width - len(each)
        if behind:
            if hidden.shape != each.shape[1:]:
                return
            each = np.concatenate([each, np.broadcast_to(hidden, (behind, *hidden.shape))])
        for router, weights, ids in self.choices:
            mixed = np.einsum("te,eto->to", _dense(weights, ids, self.width), each)
            scaled, error = _scaled(router, mixed, self.routed, self.constants)
            yield Fit(scaled, experts, None, error / self.scale)


def mixtures(
    evidence: Evidence, routers: Routers, of_router: Collection[str] = ()
) -> Iterator[Fit]:
    """Every hypothesis with its error, the plainest first.

    ``of_router`` are tensors that are none of the experts', beside those that make logits.
    """
    group = _slots_of_experts(evidence, of_router)
    for index, program in evidence.anatomy.hidden:
        hidden = evidence.rows(index)
        candidates = list(
            experts_hypotheses(
                group, evidence.observation, hidden.shape[1], routers.routed.shape[1]
            )
        )
        for fit in itertools.chain(
            _fits_on_output(evidence, candidates, routers, hidden),
            _fits_with_middle(evidence, candidates, routers, hidden),
            _fits_on_input(evidence, candidates, routers, hidden),
        ):
            yield replace(fit, hidden=program)


def _fits_on_output(
    evidence: Evidence, candidates: list[ExpertsHypothesis], routers: Routers, hidden: Array
) -> Iterator[Fit]:
    """Experts that the ``Experts`` op can say, their outputs weighted."""
    for experts in candidates:
        yield from routers.fits(experts, _each_expert(evidence, experts, hidden), hidden)


def _fits_with_middle(
    evidence: Evidence, candidates: list[ExpertsHypothesis], routers: Routers, hidden: Array
) -> Iterator[Fit]:
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
    evidence: Evidence, candidates: list[ExpertsHypothesis], routers: Routers, hidden: Array
) -> Iterator[Fit]:
    """Experts whose input is weighted, so that each choice has to be run by itself."""
    for plain in candidates if routers.width == evidence.group.num_experts else ():
        experts = replace(plain, spec=replace(plain.spec, weight_on="input"))
        built = {role: recipe.build(evidence.read) for role, recipe in experts.weights.items()}
        for router, weights, ids in routers.choices:
            mixed = reference.experts(hidden, ids, weights, experts.spec, **built)
            error = float(np.abs(mixed - routers.routed).max())
            yield Fit(router, experts, None, error / routers.scale)


def _slots_of_experts(evidence: Evidence, of_router: Collection[str]) -> ExpertGroup:
    """The group less the slots that are not read, or belong to the router or what is beside it."""
    anatomy, group = evidence.anatomy, evidence.group
    programs = [anatomy.logits, *(program for _, program in anatomy.shared)]
    programs += [anatomy.after] if anatomy.after else []
    taken = {name for program in programs for name in program.reads()} | set(of_router)
    readers = evidence.observation.consumers()
    read = {v.name for v in evidence.observation.values if v.name and readers[v.index]}

    def keep(slots: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(s for s in slots if read & set(s.sources()) and not taken & set(s.sources()))

    return ExpertGroup(group.num_experts, keep(group.matrices), keep(group.vectors))


def _each_expert(evidence: Evidence, experts: ExpertsHypothesis, hidden: Array) -> Array:
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
    np.add.at(dense, (np.arange(len(ids))[:, None], ids), weights)
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
