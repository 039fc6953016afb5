"""Everything a block might mean, enumerated from what was observed: routers and experts.

The order matters: the first hypothesis that fits is proposed, so plain ones come first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.utils._pytree import tree_leaves

from moe_export.moe.layer import Activation, ExpertsSpec, RouterSpec, Score
from moe_export.moe.recipe import Concatenated, Recipe, Transposed
from moe_export.rewrite.groups import ExpertGroup
from moe_export.rewrite.observe import Call, Observation, Ref
from moe_export.rewrite.rows import RowProgram, tokens_of

if TYPE_CHECKING:
    from moe_export.rewrite.middle import Middle

_SELECTORS = ("aten::topk", "aten::argmax", "aten::sort", "aten::max")
_SOFTMAX = ("aten::_softmax", "aten::exp", "aten::_log_softmax", "aten::logsumexp")
_SIGMOID = ("aten::sigmoid", "aten::log_sigmoid_forward", "aten::reciprocal")


@dataclass(frozen=True)
class RouterHypothesis:
    """A router, and the ``[E]`` tensors of the block that it would read."""

    spec: RouterSpec
    correction_bias: str | None = None
    expert_scale: str | None = None


@dataclass(frozen=True)
class ExpertsHypothesis:
    """Experts, and how the op's weights would be made of the block's tensors."""

    spec: ExpertsSpec
    weights: dict[str, Recipe]
    middle: Middle | None = None
    """What stands between the matrices, where it is no activation of the ops."""

    behind: RowProgram | None = None
    """What is done with an expert's rows behind its last matrix, before they are weighted."""


@dataclass(frozen=True)
class RouterClues:
    """What an observation says about a router over E experts."""

    top_ks: tuple[int, ...]
    scores: tuple[Score, ...]
    groupings: tuple[tuple[int, int, str], ...]
    """(num_groups, topk_groups, group_score)."""

    constants: tuple[float, ...]
    added_to_sums: tuple[float, ...]
    """Constants added to one number a token, as before a division."""

    floors_of_sums: tuple[float, ...]
    """Constants that one number a token is clamped to from below."""


def router_clues(observation: Observation, num_experts: int) -> RouterClues:
    """Read how many experts are chosen, by what score, in how many groups."""
    scores: dict[Score, None] = {}
    for call in observation.calls:
        after = _is_after_choice(observation, call)
        if call.op._schema.name in _SOFTMAX:
            scores |= dict.fromkeys(_either("softmax", "softmax_topk", swap=after))
        if call.op._schema.name in _SIGMOID:
            scores |= dict.fromkeys(_either("sigmoid", "sigmoid_topk", swap=after))
    scores["softmax_topk"] = None  # top-1 with weight 1 is a softmax over one
    return RouterClues(
        top_ks=tuple(_top_ks(observation, num_experts)) or (num_experts,),
        scores=tuple(scores),
        groupings=tuple(_groupings(observation, num_experts)),
        constants=tuple(c for c in observation.constants() if 0.0 < abs(c) < float("inf")),
        added_to_sums=_scalars_on_sums(observation, ("aten::add", "aten::add_")),
        floors_of_sums=_scalars_on_sums(
            observation, ("aten::clamp", "aten::clamp_min", "aten::clamp_", "aten::clamp_min_")
        ),
    )


def router_hypotheses(
    clues: RouterClues, num_experts: int, vectors: tuple[str, ...]
) -> Iterator[RouterHypothesis]:
    """Routers that fit the clues.  ``vectors`` names ``[E]`` tensors that might take part."""
    # A constant that was seen comes before none: 1e-20 cannot be told from 0 by its effect.
    normalizations = [
        (False, 0.0, 0.0),
        *((True, eps, 0.0) for eps in clues.added_to_sums),
        *((True, 0.0, floor) for floor in clues.floors_of_sums),
        (True, 0.0, 0.0),
    ]
    biases = (None, *vectors)
    groupings = (*clues.groupings, (1, 1, "max")) if clues.groupings else ((1, 1, "max"),)
    for top_k, score, grouping, bias, scale, (normalize, eps, floor) in itertools.product(
        clues.top_ks, clues.scores, groupings, biases, biases, normalizations
    ):
        if bias is not None and bias == scale:
            continue
        try:
            spec = RouterSpec(
                num_experts=num_experts,
                top_k=top_k,
                score=score,
                normalize=normalize,
                normalize_eps=eps,
                normalize_min=floor,
                num_groups=grouping[0],
                topk_groups=grouping[1],
                group_score="max" if grouping[2] == "max" else "top2_sum",
                has_correction_bias=bias is not None,
                has_expert_scale=scale is not None,
            )
        except ValueError:
            continue
        yield RouterHypothesis(spec, bias, scale)


def experts_hypotheses(
    group: ExpertGroup, observation: Observation, hidden_size: int, output_size: int
) -> Iterator[ExpertsHypothesis]:
    """Feed-forward networks that the group's matrices and vectors could form."""
    if len(group.matrices) > 3:
        return
    oriented = [[slot, Transposed(slot)] for slot in group.matrices]
    for order in itertools.permutations(range(len(oriented))):
        for choice in itertools.product(*(oriented[i] for i in order)):
            yield from _networks(group, choice, observation, (hidden_size, output_size))


def _networks(
    group: ExpertGroup,
    matrices: tuple[Recipe, ...],
    observation: Observation,
    sizes: tuple[int, int],
) -> Iterator[ExpertsHypothesis]:
    """Networks with the matrices in just this order: (down), (up, down) or (gate, up, down)."""
    hidden_size, output_size = sizes
    if not matrices:
        return
    *ups, down = matrices
    if down.shape[1] != output_size or any(up.shape[2] != hidden_size for up in ups):
        return
    inner = down.shape[2]
    rows = sum(up.shape[1] for up in ups)
    if not ups:
        shapes = [(False, "concatenated", 0)] if inner == hidden_size else []
    elif len(ups) == 1 and rows == inner:
        shapes = [(False, "concatenated", inner)]
    elif len(ups) == 1 and rows == 2 * inner:
        shapes = [(True, "concatenated", inner), (True, "interleaved", inner)]
    elif len(ups) == 2 and ups[0].shape[1] == ups[1].shape[1] == inner:
        shapes = [(True, "concatenated", inner)]
    else:
        shapes = []
    for gated, layout, intermediate in shapes:
        for biases in _bias_choices(group.vectors, rows, output_size, len(ups)):
            for activation, alpha, limit in _activations(observation, intermediate, gated=gated):
                yield ExpertsHypothesis(
                    ExpertsSpec(
                        num_experts=group.num_experts,
                        hidden_size=hidden_size,
                        intermediate_size=intermediate,
                        output_size=output_size,
                        activation=activation,
                        gated=gated,
                        gate_layout="interleaved" if layout == "interleaved" else "concatenated",
                        alpha=alpha,
                        limit=limit,
                        has_up_bias="up_bias" in biases,
                        has_down_bias="down_bias" in biases,
                    ),
                    _with_ups(ups, down) | biases,
                )


def _with_ups(ups: list[Recipe], down: Recipe) -> dict[str, Recipe]:
    if not ups:
        return {"down": down}
    return {"up": ups[0] if len(ups) == 1 else Concatenated(tuple(ups)), "down": down}


def _bias_choices(
    vectors: tuple[Recipe, ...], up_rows: int, output_size: int, num_ups: int
) -> Iterator[dict[str, Recipe]]:
    """All ways to use every vector as a bias; an expert's own tensors are never left over."""
    if not vectors:
        yield {}
        return
    for order in itertools.permutations(vectors):
        *ups, last = order
        for up_parts, down in ((tuple(ups), last), (order, None)):
            choice: dict[str, Recipe] = {}
            if down is not None:
                if down.shape[1] != output_size:
                    continue
                choice["down_bias"] = down
            if up_parts:
                joined = up_parts[0] if len(up_parts) == 1 else _joined(up_parts, num_ups)
                if joined is None or joined.shape[1] != up_rows:
                    continue
                choice["up_bias"] = joined
            yield choice


def _joined(parts: tuple[Recipe, ...], num_ups: int) -> Recipe | None:
    return Concatenated(parts) if len(parts) == num_ups == 2 else None


def _activations(
    observation: Observation, intermediate: int, *, gated: bool
) -> Iterator[tuple[Activation, float, float]]:
    """Activations whose operators were seen, then none at all."""
    default = (1.702, 7.0)
    if not intermediate:
        yield ("identity", *default)
        return
    calls = {call.op._schema.name: call for call in observation.calls}
    if "aten::silu" in calls or "aten::sigmoid" in calls:
        yield ("silu", *default)
    if "aten::gelu" in calls or "aten::erf" in calls:
        yield ("gelu", *default)
    if "aten::gelu" in calls or "aten::tanh" in calls:
        yield ("gelu_tanh", *default)
    if {"aten::relu", "aten::clamp_min", "aten::threshold", "aten::relu_", "aten::clamp"} & set(
        calls
    ):
        yield ("relu", *default)
        yield ("relu2", *default)
    if gated and "aten::sigmoid" in calls and {"aten::clamp", "aten::clamp_max"} & set(calls):
        scalars = [abs(c) for c in observation.constants() if c != 0.0]
        for limit, alpha in itertools.product(_limits(observation), dict.fromkeys(scalars)):
            yield ("swiglu_clamped", alpha, limit)
    yield ("identity", *default)


def _limits(observation: Observation) -> list[float]:
    found: dict[float, None] = {}
    for call in observation.calls:
        if call.op._schema.name.startswith("aten::clamp"):
            for leaf in tree_leaves((call.args, call.kwargs)):
                if isinstance(leaf, (int, float)) and leaf > 0:
                    found.setdefault(float(leaf))
    return list(found)


def _scalars_on_sums(observation: Observation, names: tuple[str, ...]) -> tuple[float, ...]:
    tokens = tokens_of(observation)
    found: dict[float, None] = {}
    for call in observation.calls:
        if call.op._schema.name in names and len(call.inputs) == 1:
            if observation.values[call.inputs[0]].data.numel() != tokens:
                continue
            leaves = tree_leaves((call.args, call.kwargs))
            found |= dict.fromkeys(c for c in leaves if isinstance(c, float) and 0.0 < c < 1.0)
    return tuple(found)


def _either(first: Score, second: Score, *, swap: bool) -> tuple[Score, Score]:
    return (second, first) if swap else (first, second)


def _is_after_choice(observation: Observation, call: Call) -> bool:
    """Whether a score is computed from something that was chosen before."""
    before = {i for index in call.inputs for i in observation.ancestors(index)}
    makers = {observation.values[index].call for index in before} - {None}
    return any(observation.calls[n].op._schema.name in _SELECTORS for n in makers if n is not None)


def _selected_width(observation: Observation, call: Call) -> int:
    """Size of the axis along which a selecting operator chooses; 0 where it is not the last."""
    first = call.args[0]
    if not isinstance(first, Ref):
        return 0
    shape = observation.values[first.index].data.shape
    return shape[-1] if shape else 0


def _top_ks(observation: Observation, num_experts: int) -> Iterator[int]:
    seen: set[int] = set()
    for call in observation.calls:
        if _selected_width(observation, call) != num_experts:
            continue
        for k in _chosen(observation, call):
            if 1 <= k <= num_experts and k not in seen:
                seen.add(k)
                yield k


def _chosen(observation: Observation, call: Call) -> Iterator[int]:
    """How many entries a selecting operator may have kept."""
    name = call.op._schema.name
    if name == "aten::topk":
        yield int(call.args[1])
    elif name == "aten::argmax" or (name == "aten::max" and len(call.results) == 2):
        yield 1
    elif name in ("aten::sort", "aten::argsort"):
        for reader in observation.calls:  # sorted[..., :k]
            if reader.op._schema.name == "aten::slice" and set(reader.inputs) & set(call.results):
                yield observation.values[reader.results[0]].data.shape[-1]


def _groupings(observation: Observation, num_experts: int) -> Iterator[tuple[int, int, str]]:
    """Pairs (num_groups, topk_groups) seen as a top-k over G < E columns with E % G == 0."""
    names = {call.op._schema.name for call in observation.calls}
    for call in observation.calls:
        width = _selected_width(observation, call)
        if call.op._schema.name != "aten::topk" or not 1 < width < num_experts:
            continue
        if num_experts % width == 0:
            if num_experts // width >= 2:
                yield (width, int(call.args[1]), "top2_sum")
            if {"aten::amax", "aten::max"} & names:
                yield (width, int(call.args[1]), "max")
