"""Example inputs and the axes of them that vary, by the names of ``forward``'s parameters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import torch

from moe_export.errors import UsageError

_HINT = "pass example_inputs as a tuple in forward's order, or as {parameter name: tensor}"


def name_inputs(module: torch.nn.Module, example_inputs: Any) -> dict[str, torch.Tensor]:
    """``example_inputs`` by the names of ``module.forward``'s parameters, in its order.

    A tuple or list is matched by position, a mapping by name.  Parameters with a default may be
    left out; ``None`` leaves one out whose default is ``None``.  The tensors are detached, on the
    CPU and dense.  Raises ``UsageError`` for inputs that ``forward`` does not take.
    """
    where = f"{type(module).__name__}.forward"
    parameters = _parameters(module, where)
    given = _by_name(parameters, example_inputs, where)
    inputs: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        value = given.get(name, parameter.default)
        if value is inspect.Parameter.empty:
            _refuse(f"the required input {name!r} is missing from the example inputs", where)
        if name not in given or (value is None and parameter.default is None):
            continue
        inputs[name] = _checked_tensor(name, value, where)
    if not inputs:
        _refuse("there are no example inputs", where)
    return inputs


def name_axes(
    dynamic_shapes: Any, inputs: Mapping[str, torch.Tensor]
) -> dict[str, dict[int, str]] | None:
    """``{input: {axis: name}}`` checked against ``inputs``; ``None`` stays ``None``.

    Raises ``UsageError`` for an input or an axis that is not there, or a name that is none.
    """
    where = "dynamic_shapes"
    if dynamic_shapes is None:
        return None
    if not isinstance(dynamic_shapes, Mapping):
        _refuse(f"a mapping is needed, got a {type(dynamic_shapes).__name__}", where, _AXES_HINT)
    named: dict[str, dict[int, str]] = {}
    for name, axes in dynamic_shapes.items():
        if name not in inputs:
            _refuse(f"there is no input {name!r}", where, f"inputs: {', '.join(inputs)}")
        if not isinstance(axes, Mapping):
            _refuse(f"the axes of {name!r} are not a mapping", where, _AXES_HINT)
        rank = inputs[name].dim()
        for axis, word in axes.items():
            if type(axis) is not int or not 0 <= axis < rank:
                _refuse(f"input {name!r} has axes 0 to {rank - 1}, not {axis!r}", where)
            if not isinstance(word, str) or not word.isidentifier():
                _refuse(f"axis {axis} of {name!r} is named {word!r}", where, _AXES_HINT)
        named[name] = dict(axes)
    return named


_AXES_HINT = "for example {'x': {0: 'batch', 1: 'sequence'}}"


def axes_to_json(axes: Mapping[str, Mapping[int, str]] | None) -> dict[str, dict[str, str]] | None:
    """The same with axes spelt as text, for JSON's keys are text."""
    if axes is None:
        return None
    return {name: {str(axis): word for axis, word in by.items()} for name, by in axes.items()}


def axes_from_json(value: Any) -> dict[str, dict[int, str]] | None:
    """The inverse of ``axes_to_json``; ``ValueError`` for what it would not have written."""
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(by, dict) for by in value.values()):
        raise ValueError("not a mapping of mappings")
    return {
        name: {_axis(axis): str(word) for axis, word in by.items()} for name, by in value.items()
    }


def _axis(text: str) -> int:
    if len(text) > 2 or not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text[:40]!r} is not an axis")
    return int(text)


def _parameters(module: torch.nn.Module, where: str) -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(module.forward).parameters)
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            _refuse(
                f"forward takes {str(parameter).partition(':')[0]}, so its inputs have no names",
                where,
                "wrap the module in one whose forward names each input",
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            _refuse(
                f"forward takes {name!r} by position only",
                where,
                "inputs are passed by name: remove the '/' from forward's signature",
            )
    return parameters


def _by_name(
    parameters: Mapping[str, inspect.Parameter], example_inputs: Any, where: str
) -> dict[str, Any]:
    if isinstance(example_inputs, Mapping):
        for name in example_inputs:
            if name not in parameters:
                _refuse(
                    f"forward has no parameter {name!r}",
                    where,
                    f"its parameters: {', '.join(parameters)}",
                )
        return dict(example_inputs)
    if not isinstance(example_inputs, tuple | list):
        hint = "one tensor is passed as (tensor,)" if torch.is_tensor(example_inputs) else _HINT
        _refuse(f"example_inputs is a {type(example_inputs).__name__}", where, hint)
    names = [
        name
        for name, parameter in parameters.items()
        if parameter.kind is not parameter.KEYWORD_ONLY
    ]
    if len(example_inputs) > len(names):
        _refuse(f"forward takes {len(names)} inputs, got {len(example_inputs)}", where)
    return dict(zip(names, example_inputs, strict=False))


def _checked_tensor(name: str, value: Any, where: str) -> torch.Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.from_numpy(value)
    if not isinstance(value, torch.Tensor):
        _refuse(
            f"input {name!r} is a {type(value).__name__}, and only tensors can vary",
            where,
            "give the parameter a default and leave it out",
        )
    if value.layout is not torch.strided or value.is_quantized:
        _refuse(f"input {name!r} is not a dense tensor", where)
    if value.device.type != "cpu":
        _refuse(f"input {name!r} is on {value.device}", where, f"pass {name}.cpu()")
    return value.detach()


def _refuse(message: str, where: str, hint: str | None = _HINT) -> NoReturn:
    raise UsageError(message, where=where, hint=hint)
