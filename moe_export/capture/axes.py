"""Which axes of the inputs vary, what they are called, and examples of other sizes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from moe_export.errors import CaptureError, UsageError

Axes = dict[tuple[str, int], str]
"""Symbolic axes: (input, axis) to the name of its size."""


def tracing_inputs(
    inputs: Mapping[str, Tensor], dynamic_shapes: Mapping[str, Mapping[int, str]] | None
) -> dict[str, Tensor]:
    """The example with no varying axis of size 1, which a tracer would take for a constant."""
    if dynamic_shapes is not None:
        named = {(n, a): size for n, axes in dynamic_shapes.items() for a, size in axes.items()}
        short = {size for (n, axis), size in named.items() if inputs[n].shape[axis] == 1}
        sizes = dict.fromkeys(short, 2)
    else:
        named = {(n, axis): f"{axis}" for n, axis in _expected_axes(inputs)}
        short = {named[key] for key in named if inputs[key[0]].shape[key[1]] == 1}
        sizes = dict.fromkeys(short, 2)
    return resized(inputs, named, sizes)


def requested_shapes(
    inputs: Mapping[str, Tensor],
    dynamic_shapes: Mapping[str, Mapping[int, str]] | None,
    varying: Collection[tuple[str, int]],
) -> dict[str, dict[int, Any]]:
    """The request as ``torch.export`` wants it: the user's, or every axis found to vary."""
    if dynamic_shapes is None:
        auto = torch.export.Dim.AUTO
        return {
            name: {axis: auto for axis in range(x.dim()) if (name, axis) in varying}
            for name, x in inputs.items()
        }
    unknown = set(dynamic_shapes) - set(inputs)
    if unknown:
        raise UsageError(
            f"dynamic_shapes names inputs that do not exist: {sorted(unknown)}",
            where="dynamic_shapes",
            hint=f"the inputs are {list(inputs)}",
        )
    sizes = {size for axes in dynamic_shapes.values() for size in axes.values()}
    # A size that follows from others, such as past+sequence, is for the tracer to derive.
    dims = {
        size: torch.export.Dim(size) if size.isidentifier() else torch.export.Dim.AUTO
        for size in sorted(sizes)
    }
    return {
        name: {axis: dims[size] for axis, size in dynamic_shapes.get(name, {}).items()}
        for name in inputs
    }


def varying_axes(module: nn.Module, inputs: Mapping[str, Tensor]) -> set[tuple[str, int]]:
    """Axes that the eager model takes in other sizes, as it shows by running.

    Axis 0 of all inputs is tried as one batch; every other axis alone, and those that refuse
    alone once more with the others of their size, as a mask goes with its tokens.
    """
    batch = [(name, 0) for name, x in inputs.items() if x.dim()]
    others = [(name, axis) for name, x in inputs.items() for axis in range(1, x.dim())]
    found = set(batch) if _accepts(module, inputs, batch) else set()
    found |= {key for key in others if _accepts(module, inputs, [key])}
    refused = [key for key in others if key not in found]
    for size in dict.fromkeys(inputs[name].shape[axis] for name, axis in refused):
        alike = [(n, axis) for n, axis in refused if inputs[n].shape[axis] == size]
        if len(alike) > 1 and _accepts(module, inputs, alike):
            found |= set(alike)
    return found


def _accepts(
    module: nn.Module, inputs: Mapping[str, Tensor], axes: Collection[tuple[str, int]]
) -> bool:
    """Whether the module runs with these axes longer, and with them shorter."""
    named = dict.fromkeys(axes, "size")
    length = min((inputs[name].shape[axis] for name, axis in axes), default=0)
    for other in (length + 1, length - 1 if length > 1 else length + 2):
        try:
            with torch.no_grad():
                module(**resized(inputs, named, {"size": other}))
        except (RuntimeError, ValueError, IndexError, AssertionError):
            return False
    return bool(axes)


def symbolic_axes(
    placeholders: Mapping[str, Tensor],
    dynamic_shapes: Mapping[str, Mapping[int, str]] | None,
) -> Axes:
    """Names for the axes that the traced program lets vary, equal sizes under one name.

    Raises ``CaptureError`` where the batch axis, or the sequence axis of token ids, came out
    fixed although nobody asked for that.
    """
    symbols = {
        (name, axis): str(size)
        for name, value in placeholders.items()
        for axis, size in enumerate(value.shape)
        if not isinstance(size, int)
    }
    wanted = (
        [(n, axis) for n, axes in dynamic_shapes.items() for axis in axes]
        if dynamic_shapes is not None
        else _expected_axes(placeholders)
    )
    for name, axis in wanted:
        if (name, axis) not in symbols:
            size = placeholders[name].shape[axis]
            raise CaptureError(
                f"axis {axis} of input {name!r} would be fixed to {size}",
                where=f"input {name!r}",
                hint="the model's code ties this axis to the example; make it follow the input, "
                "or pass dynamic_shapes without it to fix it on purpose",
            )
    names: dict[str, str] = {}
    for (name, axis), symbol in symbols.items():
        names.setdefault(symbol, _axis_name(name, axis, placeholders, dynamic_shapes, names))
    return {key: names[symbol] for key, symbol in symbols.items()}


def other_sizes(inputs: Mapping[str, Tensor], axes: Axes) -> Iterator[tuple[str, dict[str, int]]]:
    """Sizes that differ from the example's in every varying axis: larger, smaller, and one row."""
    example = {size: inputs[name].shape[axis] for (name, axis), size in axes.items()}
    batch = {size for (_, axis), size in axes.items() if axis == 0}
    yield "larger", {size: n + 1 for size, n in example.items()}
    yield "smaller", {size: max(n - 1, 1) for size, n in example.items()}
    yield "single", {size: 1 if size in batch else n for size, n in example.items()}


def resized(
    inputs: Mapping[str, Tensor], axes: Axes, sizes: Mapping[str, int]
) -> dict[str, Tensor]:
    """The inputs cut, or repeated from their start, to the sizes given."""
    result = dict(inputs)
    for (name, axis), size in axes.items():
        if size in sizes:
            index = torch.arange(sizes[size]) % inputs[name].shape[axis]
            result[name] = result[name].index_select(axis, index)
    return result


def _expected_axes(inputs: Mapping[str, Tensor]) -> list[tuple[str, int]]:
    """Batch is axis 0 of every input; sequence is axis 1 of a matrix of token ids."""
    batch = [(name, 0) for name, x in inputs.items() if x.dim()]
    ids = [
        (name, 1) for name, x in inputs.items() if x.dim() == 2 and not x.dtype.is_floating_point
    ]
    return batch + ids


def _axis_name(
    name: str,
    axis: int,
    placeholders: Mapping[str, Tensor],
    dynamic_shapes: Mapping[str, Mapping[int, str]] | None,
    taken: Mapping[str, str],
) -> str:
    if dynamic_shapes is not None and axis in dynamic_shapes.get(name, {}):
        return dynamic_shapes[name][axis]
    plain = (
        "batch" if axis == 0 else "sequence" if (name, axis) in _expected_axes(placeholders) else ""
    )
    return plain if plain and plain not in taken.values() else f"{name}_{axis}"
