"""Let users describe a block that structure cannot see.  A description is proven like any other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor, nn

from moe_export.errors import UsageError
from moe_export.moe.layer import ExpertsSpec, LayerSpec, RouterSpec
from moe_export.moe.recipe import Concatenated, Recipe, Reshaped, Stacked, Transposed
from moe_export.rewrite.groups import named_source
from moe_export.rewrite.proposal import Leaf, Proposal

RowFunction = Callable[[nn.Module, Tensor], Tensor]
Describe = Callable[[nn.Module], "BlockDescription"]
D = TypeVar("D", bound=Describe)

_REGISTERED: dict[type[nn.Module], Describe] = {}


@dataclass(frozen=True)
class Join:
    """``gate`` and ``up`` matrices that the op wants as one ``[E, 2I, H]``, gate first."""

    gate: str | Stack
    up: str | Stack


@dataclass(frozen=True)
class Stack:
    """The experts' matrices by their names, expert 0 first."""

    names: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class BlockDescription:
    """What a block is, in the user's words.

    ``logits(block, rows [T, H]) -> [T, E]``; ``hidden`` maps the rows to the experts' input and
    ``shared`` to what is added to the routed sum, both optional.

    ``weights`` maps ``up``, ``down``, ``up_bias``, ``down_bias``, ``correction_bias`` and
    ``expert_scale`` to the block's parameters or buffers by name: ``"down"``, or
    ``"experts.{e}.down.weight"`` one for each expert, or a ``Stack`` of names; ``.T`` behind a name
    exchanges its last two axes; ``Join(gate, up)`` puts two together.  Matrices are ``[rows out,
    columns in]``; one that only groups those rows otherwise is reshaped.
    """

    router: RouterSpec
    experts: ExpertsSpec
    logits: RowFunction
    weights: Mapping[str, str | Stack | Join]
    hidden: RowFunction | None = None
    shared: RowFunction | None = None
    shared_parameters: int = 0
    output: Leaf | tuple[Leaf, ...] = field(default=Leaf("y"))


@dataclass(frozen=True)
class BlockFunction:
    """A user's function of rows as the proposal wants it."""

    function: RowFunction

    def on(self, module: nn.Module) -> nn.Module:
        """The function bound to ``module``."""
        return _Bound(module, self.function)


class _Bound(nn.Module):
    def __init__(self, block: nn.Module, function: RowFunction) -> None:
        super().__init__()
        self.block = block
        self.function = function

    def forward(self, rows: Tensor) -> Tensor:
        return self.function(self.block, rows)


def register_block(kind: type[nn.Module]) -> Callable[[D], D]:
    """Decorate ``describe(block) -> BlockDescription`` for blocks of class ``kind``.

    The description is a proposal: it must pass the same proof as one that was found by structure,
    and an export with a description that fails it is refused.
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UsageError(
            "register_block takes the class of a block",
            where=repr(kind),
            hint="write @moe_export.register_block(MyMoE) above a function of the block",
        )

    def keep(describe: D) -> D:
        _REGISTERED[kind] = describe
        return describe

    return keep


def registered_proposal(block: nn.Module) -> Proposal | None:
    """The proposal that the user registered for this class, if any; the most derived wins."""
    for kind in type(block).__mro__:
        if kind in _REGISTERED:
            return _proposal(block, _REGISTERED[kind](block))
    return None


def is_registered(block: nn.Module) -> bool:
    """Whether a description is registered for the block's class."""
    return any(kind in _REGISTERED for kind in type(block).__mro__)


def _proposal(block: nn.Module, description: BlockDescription) -> Proposal:
    experts = description.router.num_experts
    return Proposal(
        layer=LayerSpec(
            router=description.router,
            experts=description.experts,
            has_shared_path=description.shared is not None,
            shared_parameters=description.shared_parameters,
        ),
        logits=BlockFunction(description.logits),
        hidden=None if description.hidden is None else BlockFunction(description.hidden),
        shared=() if description.shared is None else (BlockFunction(description.shared),),
        weights={
            role: _fitted(_recipe(block, names, experts), _shape(description, role))
            for role, names in description.weights.items()
        },
        output=description.output,
    )


def _shape(description: BlockDescription, role: str) -> tuple[int, ...]:
    """The shape that the op wants its input ``role`` in."""
    spec = description.experts
    up_rows = spec.intermediate_size * (2 if spec.gated else 1)
    shapes = {
        "up": (spec.num_experts, up_rows, spec.hidden_size),
        "down": (spec.num_experts, spec.output_size, spec.intermediate_size or spec.hidden_size),
        "up_bias": (spec.num_experts, up_rows),
        "down_bias": (spec.num_experts, spec.output_size),
        "correction_bias": (spec.num_experts,),
        "expert_scale": (spec.num_experts,),
    }
    if role not in shapes:
        raise UsageError(
            f"a block description has no weight {role!r}", hint=f"weights are {list(shapes)}"
        )
    return shapes[role]


def _fitted(recipe: Recipe, shape: tuple[int, ...]) -> Recipe:
    """The recipe in the op's shape, where that only groups the same rows anew."""
    if recipe.shape == shape:
        return recipe
    if math.prod(recipe.shape) != math.prod(shape):
        raise UsageError(
            f"a registered block's weight has shape {list(recipe.shape)}, not {list(shape)}",
            where=", ".join(recipe.sources()[:3]),
            hint="check the sizes in ExpertsSpec, and '.T' where axes are exchanged",
        )
    return Reshaped(recipe, shape)


def _recipe(block: nn.Module, names: str | Stack | Join, experts: int) -> Recipe:
    if isinstance(names, Join):
        parts = (_recipe(block, names.gate, experts), _recipe(block, names.up, experts))
        return Concatenated(parts)
    if isinstance(names, Stack):
        return Stacked(tuple(_recipe(block, name, experts) for name in names.names))
    if names.endswith(".T"):
        return Transposed(_recipe(block, names[:-2], experts))
    try:
        if "{e}" in names:
            each = (named_source(block, names.format(e=expert)) for expert in range(experts))
            return Stacked(tuple(each))
        return named_source(block, names)
    except (AttributeError, TypeError) as error:
        raise UsageError(
            "a registered block has no such parameter or buffer",
            where=f"{type(block).__name__}: {names!r}",
            hint="weights must be registered tensors; '{e}' stands for the expert's number",
        ) from error
