"""What an expert does between its matrices and behind them, where the ops have no name for it.

Such experts are carried by ``Dispatch``, ``GroupedMatMul`` and ``Combine``; the rest stays in
standard operators on the sorted rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from moe_export.moe.recipe import Concatenated, Read, Recipe
from moe_export.rewrite.hypotheses import ExpertsHypothesis
from moe_export.rewrite.observe import Float64Mode, Observation
from moe_export.rewrite.rows import NotRowwiseError, RowProgram, row_program

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Middle:
    """``[S, 2I]`` or ``[S, I]`` rows of the first product to ``[S, I]`` rows of the second.

    ``halves``: gate and up were two products, and the program takes them as two arguments.
    """

    program: RowProgram
    halves: bool

    def on(self, block: nn.Module) -> nn.Module:
        """The middle with the tensors of ``block``."""
        return _Halves(self.program.on(block)) if self.halves else self.program.on(block)

    def words(self) -> str:
        """Its operators, for a person."""
        return _words(self.program)


class _Halves(nn.Module):
    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        gate, up = rows.chunk(2, dim=-1)
        made: torch.Tensor = self.program(gate, up)
        return made


def with_middle(
    plain: ExpertsHypothesis, observation: Observation, read: Read, hidden: Array
) -> ExpertsHypothesis | None:
    """The hypothesis with whatever was observed between its matrices, if that works row by row.

    ``hidden [T, H]`` are the observed rows that enter the experts.
    """
    if "up" not in plain.weights:
        return None
    for products in _observed_products(plain, observation, read, hidden):
        down = plain.weights["down"]
        last = _second_operand(observation, down, products)
        if last is None or observation.values[last].data.shape[-1] != down.shape[2]:
            continue
        try:
            program = row_program(observation, last, start=products[0], given=(*products, None)[1])
        except NotRowwiseError:
            continue
        if not _reads_matrices(program, plain):
            middle = Middle(program, halves=len(products) == 2)
            spec = replace(plain.spec, middle=middle.words() or "none")
            return replace(plain, spec=spec, middle=middle)
    return None


def with_behind(
    with_middle: ExpertsHypothesis, observation: Observation, each: Array
) -> ExpertsHypothesis | None:
    """The hypothesis with what was observed behind the last matrix, if that works row by row.

    ``each [E, T, Hout]`` is what ``with_middle`` makes of every row.
    """
    made = _rows_among(observation, each.reshape(-1, each.shape[2]))
    for product in made:
        program = _furthest(observation, product)
        if program is not None and not _reads_matrices(program, with_middle):
            words = f"{with_middle.spec.middle}, then {_words(program)}"
            spec = replace(with_middle.spec, middle=words)
            return replace(with_middle, spec=spec, behind=program)
    return None


def each_expert(
    hypothesis: ExpertsHypothesis, block: nn.Module, read: Read, hidden: Array
) -> Array:
    """What every expert with such a middle makes of every row: ``[E, T, Hout]``."""
    if hypothesis.middle is None:
        raise ValueError("the hypothesis has no middle")
    between = hypothesis.middle.on(block)
    behind = nn.Identity() if hypothesis.behind is None else hypothesis.behind.on(block)
    built = {role: torch.from_numpy(r.build(read)) for role, r in hypothesis.weights.items()}
    rows = []
    with torch.no_grad(), Float64Mode():
        for expert in range(hypothesis.spec.num_experts):
            up_bias, down_bias = (
                built[role][expert] if role in built else None for role in ("up_bias", "down_bias")
            )
            inner = nn.functional.linear(torch.from_numpy(hidden), built["up"][expert], up_bias)
            last = nn.functional.linear(between(inner), built["down"][expert], down_bias)
            rows.append(behind(last))
    stacked: Array = torch.stack(rows).numpy()
    return stacked


def _observed_products(
    plain: ExpertsHypothesis, observation: Observation, read: Read, hidden: Array
) -> Iterator[tuple[int, ...]]:
    """Values that hold rows of the experts' first products: gate and up, or the one of both.

    They are found by their numbers, so it does not matter how the code came by them; the same
    rows may be laid out more than once.
    """
    biases = _parts(plain.weights.get("up_bias"))
    found: list[list[int]] = []
    for number, matrix in enumerate(_parts(plain.weights["up"])):
        made = np.einsum("th,eih->eti", hidden, matrix.build(read))
        if biases:
            made = made + biases[number].build(read)[:, None, :]
        found.append(list(_rows_among(observation, made.reshape(-1, made.shape[2]))))
    for products in itertools.product(*found):
        if len({observation.values[index].data.shape for index in products}) == 1:
            yield products


def _rows_among(observation: Observation, known: Array) -> Iterator[int]:
    """Values whose every row is one of ``known [N, D]``, and that have more than a few."""
    scale = float(np.abs(known).max())
    keys = np.sort(known.sum(axis=1))
    for value in observation.values:
        data = value.data
        if value.name or data.dim() < 2 or data.shape[-1] != known.shape[1]:
            continue
        if not data.is_floating_point() or not 3 <= _rows(value.index, observation) <= len(known):
            continue
        # Sums of rows stand for the rows: of random numbers, no two agree to eleven digits.
        sums = data.reshape(-1, data.shape[-1]).sum(-1).numpy()
        nearest = np.clip(np.searchsorted(keys, sums), 1, len(keys) - 1)
        distance = np.minimum(abs(keys[nearest] - sums), abs(keys[nearest - 1] - sums))
        if float(distance.max()) <= 1e-11 * scale * known.shape[1]:
            yield value.index


def _rows(index: int, observation: Observation) -> int:
    return observation.values[index].data.shape[:-1].numel()


def _second_operand(
    observation: Observation, down: Recipe, products: tuple[int, ...]
) -> int | None:
    """What meets an expert's down matrix, coming from these products."""
    names = set(down.sources())
    of_down: set[int] = set()
    for value in [v for v in observation.values if v.name in names]:
        of_down |= {value.index} | observation.descendants(value.index)
    inner = {products[0]} | observation.descendants(products[0])
    for call in observation.calls:
        if any(index in of_down for index in call.inputs):
            for index in call.inputs:
                if index in inner and index not in of_down:
                    return index
    return None


def _furthest(observation: Observation, product: int) -> RowProgram | None:
    """The longest program from an expert's last product to rows of its shape; none that is empty.

    What weights it depends on more than these rows, and so ends it.
    """
    shape = observation.values[product].data.shape
    found = None
    for index in sorted(observation.descendants(product)):
        if observation.values[index].data.shape != shape:
            continue
        try:
            program = row_program(observation, index, start=product)
        except NotRowwiseError:
            continue
        if any(node.op == "call_function" for node in program.graph.nodes):
            found = program
    return found


def _reads_matrices(program: RowProgram, experts: ExpertsHypothesis) -> bool:
    """Whether it reads what differs from expert to expert."""
    names = {name for recipe in experts.weights.values() for name in recipe.sources()}
    return bool(names & set(program.reads()))


def _words(program: RowProgram) -> str:
    calls = (node.target for node in program.graph.nodes if node.op == "call_function")
    names = (str(target).removeprefix("aten.").split(".")[0] for target in calls)
    return "+".join(dict.fromkeys(name for name in names if not name.startswith("<")))


def _parts(recipe: Recipe | None) -> list[Recipe]:
    if recipe is None:
        return []
    return list(recipe.parts) if isinstance(recipe, Concatenated) else [recipe]
