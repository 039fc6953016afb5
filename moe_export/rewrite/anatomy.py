"""Take an observed block apart: router logits, the experts' input, and what is added at the end.

Everything here reads the data flow of one observation; nothing is decided.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from moe_export.rewrite.groups import ExpertGroup
from moe_export.rewrite.observe import Observation, Ref, Value
from moe_export.rewrite.rows import (
    NotRowwiseError,
    RowProgram,
    as_rows,
    row_program,
    tokens_of,
)

# Operators that turn logits into probabilities or into a choice.
_ROUTING = frozenset(
    f"aten::{name}"
    for name in (
        "_softmax",
        "_log_softmax",
        "exp",
        "logsumexp",
        "sigmoid",
        "topk",
        "gather",  # of logits to which the choice alone adds a bias
        "argmax",
        "max",
        "sort",
        "argsort",
    )
)
# A scale, a bias, a projection, a norm of some seven operators, and their casts: more than that is
# not behind an experts' sum.
_MOST_STEPS_AFTER = 16
_ADDS = ("aten::add", "aten::add_")
_ACCUMULATES = ("aten::index_add_", "aten::index_add", "aten::index_put_", "aten::scatter_add_")


@dataclass(frozen=True)
class Anatomy:
    """One reading of a block: the tensors are rows ``[T, .]`` of the observed run."""

    logits_value: int
    logits: RowProgram
    hidden: tuple[tuple[int, RowProgram | None], ...]
    """Values that the experts may read; ``None`` for the block's own input."""

    shared: tuple[tuple[int, RowProgram], ...]
    routed_value: int
    """What is to be explained as the experts' weighted sum plus ``shared``."""

    after: RowProgram | None
    """``(rows, routed) -> [T, Hout]``: what the block does with that sum, if anything."""

    own_vectors: tuple[str, ...]
    """``[E]`` tensors that no row program reads: selection bias or expert scale, if anything."""


def output_value(observation: Observation) -> int | None:
    """The returned tensor that holds one row for each token, ``None`` if there is none."""
    tokens = tokens_of(observation)
    for leaf in tree_leaves(observation.output):
        if isinstance(leaf, Ref):
            data = observation.values[leaf.index].data
            if data.dim() >= 2 and as_rows(data, tokens) is not None:
                return leaf.index
    return None


def logits_values(observation: Observation, num_experts: int) -> list[int]:
    """Values with E entries for each token that are scored or chosen from, the earliest only."""
    tokens = tokens_of(observation)
    reachable = observation.descendants(observation.input)
    found: dict[int, None] = {}
    for call in observation.calls:
        if call.op._schema.name not in _ROUTING or not call.inputs:
            continue
        data = observation.values[call.inputs[0]].data
        wide = data.dim() >= 2 and data.shape[-1] == num_experts
        wide = wide or (data.dim() >= 3 and data.shape[-2:].numel() == num_experts)  # in groups
        if wide and data.numel() == tokens * num_experts and call.inputs[0] in reachable:
            found.setdefault(call.inputs[0])
    later = {index for start in found for index in observation.descendants(start)}
    return [index for index in found if index not in later]


def dissect(
    observation: Observation, group: ExpertGroup, output: int, width: int
) -> Iterator[Anatomy | str]:
    """Readings of the block with this group as its experts; a string says why one failed.

    ``width`` is how many experts the router chooses among: those of the group or more.
    """
    for logits in logits_values(observation, width):
        routed = observation.descendants(logits)
        for routed_value in _routed_sums(observation, group, output, routed):
            try:
                yield _reading(observation, group, (logits, routed_value, output), routed)
            except NotRowwiseError as error:
                yield str(error)


def _routed_sums(
    observation: Observation, group: ExpertGroup, output: int, routed: set[int]
) -> Iterator[int]:
    """The output, then what it is made of as long as it holds all that depends on the routing.

    So a scale, a projection or a norm behind the experts' sum is walked past, whatever ways there
    are through it, and the sum itself is the last candidate.
    """
    tokens = tokens_of(observation)
    of_experts = _of_experts(observation, group)
    # All ways from the router to the output lead through ``live``; alone, a value holds them all.
    live, before = {output}, output
    for _ in range(_MOST_STEPS_AFTER + 1):
        current = max(live)
        value = observation.values[current]
        if live == {current}:
            rows = as_rows(value.data, tokens)
            wide = rows is not None and rows.shape[1] > 1 and rows.is_floating_point()
            if current != output and not (wide and current in of_experts):
                return
            if current == output or not _only_laid_out(value, observation.values[before]):
                yield current
            before = current
        if value.call is None:
            return
        call = observation.calls[value.call]
        if call.op._schema.name in _ACCUMULATES:
            return
        live = (live - {current}) | {index for index in call.inputs if index in routed}
        if not live:
            return


def _reading(
    observation: Observation, group: ExpertGroup, chain: tuple[int, int, int], routed: set[int]
) -> Anatomy:
    logits, routed_value, output = chain
    after = None
    if routed_value != output:
        after = row_program(observation, output, given=routed_value)
    try:
        logits_program = row_program(observation, logits)
    except NotRowwiseError as error:
        raise NotRowwiseError(
            f"the router logits are not a function of one token: {error}"
        ) from error
    shared = []
    for value in _static_terms(observation, routed_value, routed):
        try:
            shared.append((value.index, row_program(observation, value.index)))
        except NotRowwiseError as error:
            raise NotRowwiseError(
                f"what is added to the routed sum is not a function of one token: {error}"
            ) from error
    hidden = _expert_inputs(observation, group, routed)
    taken = set(logits_program.reads())
    for program in [program for _, program in shared] + ([after] if after else []):
        taken.update(program.reads())
    vectors = tuple(
        value.name
        for value in observation.values
        if value.name is not None
        and value.name not in taken
        and value.data.numel() == observation.values[logits].data.shape[-1]
        and value.data.is_floating_point()
    )
    return Anatomy(
        logits_value=logits,
        logits=logits_program,
        hidden=hidden,
        shared=tuple(shared),
        routed_value=routed_value,
        after=after,
        own_vectors=tuple(dict.fromkeys(vectors)),
    )


def _static_terms(observation: Observation, output: int, routed: set[int]) -> list[Value]:
    """What the output adds that does not depend on the routing; exact zeros are left out."""
    terms: list[Value] = []
    stack = [output]
    while stack:
        value = observation.values[stack.pop()]
        if value.index not in routed:
            if bool((value.data != 0).any()):
                terms.append(value)
            continue
        stack.extend(_summands(observation, value))
    return terms


def _summands(observation: Observation, value: Value) -> list[int]:
    """The values that ``value`` is a plain sum of, as far as it is one."""
    if value.call is None:
        return []
    call = observation.calls[value.call]
    name = call.op._schema.name
    inputs = [observation.values[index] for index in call.inputs]
    if name in _ADDS and call.kwargs.get("alpha", 1) == 1:
        alike = [v.index for v in inputs if v.data.numel() == value.data.numel()]
        return alike if len(alike) == len(call.args) == 2 else []
    if name in _ACCUMULATES:
        return [call.inputs[0]]
    for before in inputs:
        if before.name is None and _only_laid_out(before, value):
            return [before.index]
    return []


def _only_laid_out(before: Value, after: Value) -> bool:
    """Whether two values hold the same numbers in the same order."""
    same = before.data.numel() == after.data.numel()
    return same and bool(torch.equal(before.data.reshape(-1), after.data.reshape(-1)))


def _expert_inputs(
    observation: Observation, group: ExpertGroup, routed: set[int]
) -> tuple[tuple[int, RowProgram | None], ...]:
    """Rows that meet the experts' weights or the routing; the block's own input first."""
    of_experts = _of_experts(observation, group)
    tokens = tokens_of(observation)
    reachable = observation.descendants(observation.input)
    widths = {size for slot in group.matrices for size in slot.shape[1:]}
    found: list[tuple[int, RowProgram | None]] = [(observation.input, None)]
    seen = [as_rows(observation.values[observation.input].data, tokens)]
    for call in observation.calls:
        meets = any(index in of_experts or index in routed for index in call.inputs)
        for index in call.inputs if meets else ():
            value = observation.values[index]
            rows = as_rows(value.data, tokens)
            if index in of_experts or index in routed or index not in reachable:
                continue
            if rows is None or rows.shape[1] not in widths or any(_same(rows, s) for s in seen):
                continue
            try:
                program = row_program(observation, index)
            except NotRowwiseError:
                continue
            seen.append(rows)
            found.append((index, program))
    return tuple(found)


def _of_experts(observation: Observation, group: ExpertGroup) -> set[int]:
    """The experts' tensors, and what depends on them."""
    names = group.reads()
    own = [value.index for value in observation.values if value.name in names]
    return {*own, *observation.descendants(*own)}


def _same(rows: Any, other: Any) -> bool:
    return other is not None and rows.shape == other.shape and bool(torch.equal(rows, other))
