"""Cut the part of an observation that decides about each token alone, whatever shapes it takes.

Where ``rows.py`` has one row of numbers for a token, here a value is ``[T, ...]``: groups of
experts stay an axis, and a choice may be a single number.  An operator counts as a mere layout by
what it is, never by what it happened to leave alone on the observed tokens, so a mask that hid
nothing is kept.  Each node is compared with what was observed, and no size of the example enters.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from moe_export.rewrite import torch_topk  # noqa: F401 - registers the op
from moe_export.rewrite.observe import Call, Observation, Ref, Value
from moe_export.rewrite.rows import Cutter, NotRowwiseError, RowProgram, agrees, functional

_LAYOUTS = frozenset(
    f"aten::{name}"
    for name in (
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze"),
        *("clone", "contiguous", "alias", "detach", "lift_fresh", "lift_fresh_copy"),
    )
)
"""Operators that keep every number and their order."""

_ORDERS = ("aten::topk", "aten::sort")
_MADE = {
    "aten::zeros": torch.ops.aten.new_zeros.default,
    "aten::ones": torch.ops.aten.new_ones.default,
    "aten::full": torch.ops.aten.new_full.default,
}
"""Operators that make a tensor of nothing, and those that make it in the dtype of another."""

_AXES = ("dim", "dims", "dim0", "dim1", "axis0", "axis1")
_SIZES = ("size", "shape", "sizes")


class TokenCutter(Cutter):
    """Programs of ``(rows [T, H], logits [T, E])`` over the tensors of the observed block."""

    def __init__(self, observation: Observation, logits: int) -> None:
        super().__init__(observation, observation.input, logits, names=("rows", "logits"))
        self._moving = observation.descendants(observation.input)
        self._count: fx.Node | None = None
        self._made: dict[int, tuple[list[fx.Node], Any]] = {}
        self._keep_groups(observation.values[logits])

    def program(self, *nodes: fx.Node) -> RowProgram:
        """The function that returns these."""
        self.graph.output(nodes)
        self.graph.eliminate_dead_code()
        return RowProgram(self.graph)

    def as_columns(self, index: int, columns: int) -> fx.Node:
        """Emit a value with so many numbers a token as ``[T, columns]``."""
        node = self.emit(index)
        made = self.rows[index]
        if made.shape == (self.tokens, columns):
            return node
        return self._call(torch.ops.aten.reshape.default, node, [-1, columns])

    def _keep_groups(self, logits: Value) -> None:
        """Logits that are observed in groups are given in one row all the same."""
        shaped = self._of_tokens(logits)
        if shaped is not None and shaped.dim() > 2:
            node, sizes = self.done[logits.index], [-1, *shaped.shape[1:]]
            self._keep(logits, self._call(torch.ops.aten.reshape.default, node, sizes), shaped)

    def _needed(self, value: Value) -> tuple[int, ...]:
        assert value.call is not None  # noqa: S101 - leaves were emitted before
        return self.observation.calls[value.call].inputs

    def _emit_leaf(self, value: Value) -> None:
        if value.name is None and value.data.dim() == 0:
            self._emit_number(value)
            return
        super()._emit_leaf(value)

    def _emit_number(self, value: Value) -> None:
        """A number of the code that became a tensor; a proof tells whether it is one of the run."""
        number, dtype = value.data.item(), value.data.dtype
        if dtype is torch.float64 and value.data.float().double().equal(value.data):
            dtype = torch.float32  # a number has no say in the dtype of what it meets
        node = self.graph.call_function(
            torch.ops.aten.scalar_tensor.default, (number,), {"dtype": dtype}
        )
        self._keep(value, node, value.data)

    def _emit_call(self, value: Value, call: Call) -> None:
        if torch.Tag.nondeterministic_seeded in call.op.tags:
            raise NotRowwiseError(f"{call.op} draws random numbers")
        expected = self._of_tokens(value)
        if expected is None and value.index in self._moving:
            raise NotRowwiseError(f"{call.op} works across tokens")
        expected = value.data if expected is None else expected
        if self._only_lays_out(value, call):
            self._emit_layout(value, call.inputs[0], expected)
            return
        nodes, result = self._called(value, call)
        made = result[value.position] if isinstance(result, (tuple, list)) else result
        if not agrees(made, expected):
            raise NotRowwiseError(f"{call.op} does not work token by token")
        self._keep(value, nodes[value.position if len(nodes) > 1 else 0], made)

    def _called(self, value: Value, call: Call) -> tuple[list[fx.Node], Any]:
        """What a call makes, and a node for each of it: once, though it may be several values."""
        number = value.call
        assert number is not None  # noqa: S101 - leaves were emitted before
        if number in self._made:
            return self._made[number]
        call = self._without_batch(call)
        op = functional(call.op)
        args, kwargs = self._arguments(op, call, value)
        real = tree_map(self._real, (args, kwargs))
        try:
            with torch.no_grad():
                result = op(*real[0], **real[1])
        except (RuntimeError, TypeError, IndexError) as error:
            raise NotRowwiseError(f"{call.op} does not work token by token") from error
        if call.dtype is not None and call.dtype is not torch.float64:
            kwargs = {**kwargs, "dtype": call.dtype}
        elif op._schema.name in _MADE and kwargs.get("dtype") is torch.float64:
            # That of the block, which ran in float64: in the model it is another.
            op, args, kwargs = _MADE[op._schema.name], (Ref(self.start), *args), {}
        if op._schema.name in _ORDERS:
            node = self._ordered(op, args, kwargs)
        else:
            args, kwargs = tree_map(self._node, (args, kwargs))
            node = self.graph.call_function(op, args, kwargs)
        several = len(result) if isinstance(result, (tuple, list)) else 0
        nodes = [self._call(operator.getitem, node, place) for place in range(several)] or [node]
        self._made[number] = nodes, result
        return self._made[number]

    def _ordered(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        """Values and places, where of equal values the first comes first.

        PyTorch leaves open which of them does, and a bundle's runtime would differ from it.
        """
        names = [argument.name for argument in op._schema.arguments]
        given: dict[str, Any] = {"dim": -1, "descending": False, "largest": True}
        given |= dict(zip(names, args, strict=False)) | kwargs
        x, dim = given["self"], given["dim"]
        if op._schema.name == "aten::topk":
            count, largest = given["k"], given["largest"]
        else:
            count, largest = self.rows[x.index].shape[dim], given["descending"]
        return self._call(
            torch.ops.moe_export.topk.default, self.done[x.index], count, dim, largest
        )

    def _emit_layout(self, value: Value, before: int, expected: Tensor) -> None:
        node, rows = self.done[before], self.rows[before]
        if rows.shape != expected.shape:
            shape = list(expected.shape)
            if self._lead(value.data) is not None:
                shape[0] = -1
            node = self._call(torch.ops.aten.reshape.default, node, shape)
        self._keep(value, node, expected)

    def _only_lays_out(self, value: Value, call: Call) -> bool:
        """Whether a call keeps numbers and order, which a slice or a repetition may do as well."""
        name = call.op._schema.name
        if name in _LAYOUTS:
            return True
        before = self.observation.values[call.inputs[0]].data if call.inputs else None
        return (
            name in ("aten::slice", "aten::expand")
            and before is not None
            and before.numel() == value.data.numel()
        )

    def _arguments(
        self, op: Any, call: Call, value: Value
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments for values ``[T, ...]``."""
        names = [argument.name for argument in op._schema.arguments]
        given = dict(zip(names, call.args, strict=False)) | call.kwargs
        first = self.observation.values[call.inputs[0]].data if call.inputs else torch.empty(())
        lead, rank = self._lead(first) or 0, first.dim()
        if op._schema.name == "aten::stack":
            rank += 1
        for name in _AXES:
            if lead and given.get(name) is not None:
                given[name] = _moved(given[name], lead, rank, call)
        for name in _SIZES:
            if name in given and self._lead(value.data) is not None:
                of_value = self._lead(value.data) or 0
                given[name] = [self._tokens(), *value.data.shape[of_value:]]
        if "repeats" in given and lead:
            given["repeats"] = [1, *given["repeats"][lead:]]
        if op._schema.name == "aten::arange" and self._lead(value.data) is not None:
            given = {k: self._tokens() if v == self.tokens else v for k, v in given.items()}
        if "indices" in given and lead > 1 and not any(given["indices"][:lead]):
            given["indices"] = [None, *given["indices"][lead:]]
        positional = [a.name for a in op._schema.arguments if not a.kwarg_only]
        last = max((i for i, name in enumerate(positional) if name in given), default=-1)
        defaults = {a.name: a.default_value for a in op._schema.arguments}
        args = tuple(given.get(name, defaults[name]) for name in positional[: last + 1])
        return args, {name: x for name, x in given.items() if name not in positional}

    def _tokens(self) -> fx.Node:
        """T, as the program is given it."""
        if self._count is None:
            rows = self.done[self.start]
            self._count = self.graph.call_function(torch.ops.aten.sym_size.int, (rows, 0))
        return self._count

    def _real(self, leaf: Any) -> Any:
        return self.tokens if leaf is self._count and leaf is not None else super()._real(leaf)

    def _call(self, op: Any, *args: Any) -> fx.Node:
        return self.graph.call_function(op, args)

    def _of_tokens(self, value: Value) -> Tensor | None:
        """``[T, ...]``, or ``None`` for what does not begin with the tokens."""
        lead = self._lead(value.data)
        if lead is None or value.name is not None:
            return None
        return value.data.reshape(self.tokens, *value.data.shape[lead:])

    def _lead(self, data: Tensor) -> int | None:
        """How many axes are those of the tokens, which are as many as nothing else is."""
        count = 1
        for axis, size in enumerate(data.shape):
            count *= size
            if count == self.tokens:
                return axis + 1
        return None


def _moved(given: Any, lead: int, rank: int, call: Call) -> Any:
    """Axes of a value with ``lead`` axes of tokens as those of one with a single one."""
    if isinstance(given, (list, tuple)) and call.op._schema.name == "aten::permute":
        axes = [axis % rank for axis in given]
        if axes[:lead] != list(range(lead)):
            raise NotRowwiseError(f"{call.op} moves the tokens")
        return [0, *(axis - lead + 1 for axis in axes[lead:])]
    if isinstance(given, (list, tuple)):
        return [_moved(axis, lead, rank, call) for axis in given]
    if isinstance(given, Ref) or given % rank < lead:
        raise NotRowwiseError(f"{call.op} works across tokens")
    return given % rank - rank
