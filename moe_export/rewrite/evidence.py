"""One reading of an observed block, with its numbers at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from torch import Tensor, nn

from moe_export.rewrite.anatomy import Anatomy, dissect, output_value
from moe_export.rewrite.groups import ExpertGroup, expert_groups
from moe_export.rewrite.observe import Observation, observe
from moe_export.rewrite.rows import as_rows, tensor_named, tokens_of

Array = npt.NDArray[Any]


def readings(
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
class Evidence:
    """A reading of a block, and the run that it was read in."""

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

    @property
    def routed(self) -> Array:
        """What the experts' weighted sum has to be, ``[T, Hout]``."""
        routed = self.rows(self.anatomy.routed_value).copy()
        for index, _ in self.anatomy.shared:
            routed -= self.rows(index)
        return routed


def evidences(block: nn.Module, x: Tensor) -> Iterator[Evidence]:
    """All readings of a float64 block with inputs like ``x [..., H]``, the likeliest first.

    None of one that draws random numbers.
    """
    observation = observe(block, x)
    output = output_value(observation)
    if output is None or observation.random_op() is not None:
        return
    for group in expert_groups(block):
        if isinstance(group, ExpertGroup):
            for anatomy in readings(observation, block, group, output):
                if isinstance(anatomy, Anatomy):
                    yield Evidence(observation, block, group, anatomy, output)
