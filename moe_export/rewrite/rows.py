"""Cut the part of an observation that maps each token's row to another row, as an FX graph.

Router logits, a shared expert, a norm in front: all are functions of one row at a time.  Each
operator is emitted on ``[T, D]`` rows and its result compared with what was observed, so a graph
that comes out is already checked; shapes of the example never enter it.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from moe_export.rewrite.observe import Call, Observation, Ref, Value

# Rounding may differ between an operator on [B, S, D] and on [T, D] (other blocking), nothing else.
_RELATIVE = 1e-11

_LAYOUT_ARGUMENTS = ("size", "shape", "sizes", "repeats", "self_shape")


class NotRowwiseError(Exception):
    """The value is not a function of one row at a time; the message names the operator."""


@dataclass(frozen=True)
class RowProgram:
    """A function ``rows [T, H] -> [T, D]`` over a module's own parameters, by their names.

    One cut with ``given`` takes those rows as its second argument.
    """

    graph: fx.Graph

    def on(self, module: nn.Module) -> fx.GraphModule:
        """The function with the tensors of ``module``, which is left alone."""
        root = nn.Module()
        for name in self.reads():
            _adopt(root, module, name)
        return fx.GraphModule(root, self.graph, class_name="RowProgram")

    def reads(self) -> tuple[str, ...]:
        """Names of the parameters and buffers it reads."""
        targets = (str(node.target) for node in self.graph.nodes if node.op == "get_attr")
        return tuple(dict.fromkeys(targets))


def row_program(
    observation: Observation, target: int, *, start: int | None = None, given: int | None = None
) -> RowProgram:
    """The program that computes ``target`` from the observed input; or ``NotRowwiseError``.

    With ``start``, from that value instead, whose last axis is the row.  With ``given``, the rows
    of that value are a second argument instead of something to compute.
    """
    cutter = Cutter(observation, observation.input if start is None else start, given)
    cutter.graph.output(cutter.emit(target))
    return RowProgram(cutter.graph)


def as_rows(data: Tensor, tokens: int) -> Tensor | None:
    """``data`` as ``[T, D]``, or ``None`` where its size is not a multiple of T."""
    if data.numel() == 0 or data.numel() % tokens:
        return None
    return data.reshape(tokens, -1)


def tokens_of(observation: Observation) -> int:
    """T of the observed input ``[..., H]``."""
    x = observation.values[observation.input].data
    return x.numel() // x.shape[-1]


# What these leave alone on the observed rows they may change on others: never a mere layout.
_BOUNDS = {
    f"aten::{name}{ending}"
    for name in (
        *("clamp", "clamp_min", "clamp_max", "relu", "leaky_relu", "hardtanh", "threshold", "abs"),
        *("masked_fill", "nan_to_num", "fmod", "remainder"),
    )
    for ending in ("", "_")
} | {"aten::maximum", "aten::minimum", "aten::where"}


class Cutter:
    """Emits values of an observation as nodes, each compared with what was observed."""

    def __init__(
        self,
        observation: Observation,
        start: int,
        given: int | None,
        names: tuple[str, str] = ("rows", "given"),
    ) -> None:
        self.observation = observation
        self.start = start
        x = observation.values[start]
        self.tokens = x.data.shape[:-1].numel()
        self.graph = fx.Graph()
        self.done: dict[int, fx.Node] = {}
        self.rows: dict[int, Tensor] = {}
        self._keep(x, self.graph.placeholder(names[0]), x.data.reshape(self.tokens, -1))
        if given is not None:
            value = observation.values[given]
            self._keep(value, self.graph.placeholder(names[1]), value.data.reshape(self.tokens, -1))

    def emit(self, index: int) -> fx.Node:
        """The node that computes value ``index``; emits what it needs first."""
        # An explicit stack: a loop over many experts makes chains deeper than Python recurses.
        stack = [index]
        while stack:
            current = stack[-1]
            if current in self.done:
                stack.pop()
                continue
            value = self.observation.values[current]
            if value.call is None:
                self._emit_leaf(value)
                continue
            missing = [i for i in self._needed(value) if i not in self.done]
            if missing:
                stack.extend(missing)
                continue
            self._emit_call(value, self.observation.calls[value.call])
        return self.done[index]

    def _needed(self, value: Value) -> tuple[int, ...]:
        assert value.call is not None  # noqa: S101 - leaves were emitted before
        call = self.observation.calls[value.call]
        same = self._same_rows_as(value, call)
        return call.inputs if same is None else (same,)

    def _keep(self, value: Value, node: fx.Node, rows: Tensor) -> None:
        self.done[value.index] = node
        self.rows[value.index] = rows

    def _emit_leaf(self, value: Value) -> None:
        if value.name is None:
            raise NotRowwiseError("it reads a tensor that is neither an input nor a parameter")
        self._keep(value, self.graph.get_attr(value.name), value.data)

    def _same_rows_as(self, value: Value, call: Call) -> int | None:
        """The input whose rows this call only lays out anew, if it is such a call."""
        rows = as_rows(value.data, self.tokens)
        if rows is None or call.dtype is not None or call.op._schema.name in _BOUNDS:
            return None
        for index in call.inputs:
            before = self.observation.values[index]
            candidate = as_rows(before.data, self.tokens)
            if before.name is None and candidate is not None and torch.equal(candidate, rows):
                return index
        return None

    def _emit_call(self, value: Value, call: Call) -> None:
        same = self._same_rows_as(value, call)
        if same is not None:
            self._keep(value, self.done[same], self.rows[same])
            return
        if torch.Tag.nondeterministic_seeded in call.op.tags:
            raise NotRowwiseError(f"{call.op} draws random numbers")
        if self._is_broadcast(value, call):
            self._keep(value, self.done[call.inputs[0]], self.rows[call.inputs[0]])
            return
        call = self._without_batch(call)
        op = functional(call.op)
        static = all(self._is_static(index) for index in call.inputs)
        if static and not call.inputs:
            raise NotRowwiseError(f"{call.op} makes a tensor of the example's shape")
        args, kwargs = (call.args, call.kwargs) if static else self._on_rows(op, call)
        real = tree_map(lambda leaf: self._real(leaf), (args, kwargs))
        try:
            with torch.no_grad():
                result = op(*real[0], **real[1])
        except (RuntimeError, TypeError, IndexError) as error:
            raise NotRowwiseError(f"{call.op} does not work row by row") from error
        several = isinstance(result, (tuple, list))
        made = result[value.position] if several else result
        expected = value.data if static else as_rows(value.data, self.tokens)
        if expected is None or not agrees(made, expected):
            raise NotRowwiseError(f"{call.op} does not work row by row")
        if call.dtype is not None and call.dtype is not torch.float64:
            kwargs = {**kwargs, "dtype": call.dtype}
        nodes = tree_map(lambda leaf: self._node(leaf), (args, kwargs))
        node = self.graph.call_function(op, nodes[0], nodes[1])
        if several:
            node = self.graph.call_function(operator.getitem, (node, value.position))
        self._keep(value, node, made)

    def _is_broadcast(self, value: Value, call: Call) -> bool:
        """Whether the call only repeats one number a token along the row; operators do it alone."""
        if call.op is not torch.ops.aten.expand.default or self._is_static(value.index):
            return False
        rows, narrow = as_rows(value.data, self.tokens), self.rows[call.inputs[0]]
        return (
            rows is not None
            and narrow.shape[1:] == (1,)
            and torch.equal(narrow.expand_as(rows), rows)
        )

    def _without_batch(self, call: Call) -> Call:
        """A batched product of one batch, as ``einsum`` makes it, as the plain product it is."""
        if call.op is not torch.ops.aten.bmm.default:
            return call
        left, right = (self.observation.values[i] for i in call.inputs)
        if left.data.shape[0] != 1 or left.name is not None or self._is_static(left.index):
            return call
        weights = self.done[right.index]
        self.done[right.index] = self.graph.call_function(
            torch.ops.aten.select.int, (weights, 0, 0)
        )
        self.rows[right.index] = self.rows[right.index][0]
        return replace(call, op=torch.ops.aten.mm.default)

    def _on_rows(self, op: Any, call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments, with axes counted from the end and reductions keeping theirs."""
        names = [argument.name for argument in op._schema.arguments]
        rank = max(self.observation.values[i].data.dim() for i in call.inputs)
        arguments = dict(zip(names, call.args, strict=False)) | call.kwargs
        for name, given in arguments.items():
            if name in _LAYOUT_ARGUMENTS:
                raise NotRowwiseError(f"{call.op} uses the example's shape")
            if name in ("dim", "dims"):
                arguments[name] = tree_map(lambda axis: _from_the_end(axis, rank, call), given)
        if "keepdim" in names:
            arguments["keepdim"] = True
        positional = [a.name for a in op._schema.arguments if not a.kwarg_only]
        last = max((i for i, name in enumerate(positional) if name in arguments), default=-1)
        if any(name not in arguments for name in positional[: last + 1]):
            defaults = {a.name: a.default_value for a in op._schema.arguments}
            arguments = {**{n: defaults[n] for n in positional[: last + 1]}, **arguments}
        args = tuple(arguments[name] for name in positional[: last + 1])
        return args, {k: v for k, v in arguments.items() if k not in positional}

    def _is_static(self, index: int) -> bool:
        """Whether a value is made of parameters only."""
        return self.start not in self.observation.ancestors(index)

    def _real(self, leaf: Any) -> Any:
        return self.rows[leaf.index] if isinstance(leaf, Ref) else leaf

    def _node(self, leaf: Any) -> Any:
        return self.done[leaf.index] if isinstance(leaf, Ref) else leaf


def functional(op: Any) -> Any:
    """The operator without its in-place write."""
    if not op._schema.is_mutable:
        return op
    namespace, name = op._schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    overload = getattr(packet, op._overloadname, None) if name.endswith("_") else None
    if overload is None or overload._schema.is_mutable:
        raise NotRowwiseError(f"{op} writes in place")
    return overload


def _from_the_end(axis: int, rank: int, call: Call) -> int:
    if axis in (-1, rank - 1):
        return -1
    raise NotRowwiseError(f"{call.op} works across tokens")


def agrees(made: Any, expected: Tensor) -> bool:
    """Whether an operator made on rows what was observed, to float64 rounding."""
    if not isinstance(made, Tensor) or made.shape != expected.shape:
        return False
    if not expected.is_floating_point():
        return torch.equal(made, expected)
    finite = expected[expected.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(
        made, expected, rtol=_RELATIVE, atol=_RELATIVE * max(scale, 1e-300), equal_nan=True
    )


def _adopt(root: nn.Module, module: nn.Module, name: str) -> None:
    """Give ``root`` the module's own tensor under the same qualified name."""
    *parents, leaf = name.split(".")
    place = root
    for part in parents:
        if not hasattr(place, part):
            place.add_module(part, nn.Module())
        place = getattr(place, part)
    tensor = tensor_named(module, name)
    if isinstance(tensor, nn.Parameter):
        place.register_parameter(leaf, tensor)
    else:
        place.register_buffer(leaf, tensor)


def tensor_named(module: nn.Module, name: str) -> Tensor:
    """A parameter or buffer of ``module`` by its qualified name."""
    *parents, leaf = name.split(".")
    tensor = getattr(module.get_submodule(".".join(parents)), leaf)
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is not a tensor")
    return tensor
