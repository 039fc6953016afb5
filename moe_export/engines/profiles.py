"""Optimisation profiles: the sizes that an engine runs with, from the model's own limits."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from moe_export.errors import UnsupportedError
from moe_export.forms import EngineLimits
from moe_export.manifest import ComponentRecord, Shapes, TensorInfo

Sizes = Mapping[str, int]
"""Of symbolic dimensions, by name."""

_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


@dataclass(frozen=True, kw_only=True)
class _Range:
    """The sizes of one symbolic dimension."""

    least: int
    best: int
    most: int


def profiles_of(
    record: ComponentRecord, seen: Sequence[Sizes], limits: EngineLimits
) -> tuple[dict[str, Shapes], ...]:
    """One profile, or for a decoder one for a prompt and one for a token after the other.

    ``seen`` are sizes that the model is known to run with: where one of them is 0, the engine runs
    with 0 as well.  A dimension of any other name than the project's own is bounded as tokens are.
    """
    names = sorted({name for info in record.inputs for name in _names(info)})
    ranges = {name: _range(name, seen, limits) for name in names}
    if not {"past", "sequence"} <= ranges.keys():
        return (_profile(record, ranges),)
    most = limits.max_tokens
    prompt = {**ranges, "past": _Range(least=0, best=0, most=most)}
    cached = _Range(least=0, best=most // 2, most=most)
    token = {**ranges, "past": cached, "sequence": _Range(least=1, best=1, most=1)}
    return (_profile(record, prompt), _profile(record, token))


def sizes_in(inputs: Sequence[TensorInfo], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The symbolic dimensions that inputs of these shapes give a size to."""
    return {
        dim: size
        for info in inputs
        for dim, size in zip(info.shape, shapes[info.name], strict=True)
        if isinstance(dim, str) and dim.isidentifier()
    }


def _range(name: str, seen: Sequence[Sizes], limits: EngineLimits) -> _Range:
    most = {
        "batch": limits.max_batch,
        "features": limits.max_image_tokens,
        "patches": 4 * limits.max_image_tokens,
        "images": max(1, limits.max_image_tokens // 16),
    }.get(name, limits.max_tokens)
    least = 0 if any(sizes.get(name) == 0 for sizes in seen) else 1
    best = 1 if name in ("batch", "images") else min(512, most)
    return _Range(least=least, best=max(best, least), most=most)


def _profile(record: ComponentRecord, ranges: Mapping[str, _Range]) -> dict[str, Shapes]:
    least, best, most = (
        {name: getattr(each, which) for name, each in ranges.items()}
        for which in ("least", "best", "most")
    )
    return {
        info.name: (_shape(info, least), _shape(info, best), _shape(info, most))
        for info in record.inputs
        if _names(info)
    }


def _names(info: TensorInfo) -> set[str]:
    """The symbolic dimensions of an input."""
    made: set[str] = set()
    for dim in info.shape:
        if dim is None:
            raise UnsupportedError(
                f"input {info.name!r} has a dimension without a name, which no profile can bound",
                hint="name it in dynamic_shapes when the model is exported",
            )
        if isinstance(dim, str):
            made |= {each.id for each in ast.walk(_parsed(dim)) if isinstance(each, ast.Name)}
    return made


def _shape(info: TensorInfo, sizes: Sizes) -> tuple[int, ...]:
    return tuple(
        dim if isinstance(dim, int) else _value(_parsed(str(dim)), sizes) for dim in info.shape
    )


def _parsed(dim: str) -> ast.expr:
    """A dimension such as ``past+sequence``; manifests are read, so nothing is run."""
    try:
        return ast.parse(dim, mode="eval").body
    except SyntaxError as error:
        raise UnsupportedError(f"the dimension {dim!r} cannot be reckoned") from error


def _value(dim: ast.expr, sizes: Sizes) -> int:
    match dim:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return sizes[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, sizes), _value(right, sizes))
    raise UnsupportedError(f"the dimension {ast.unparse(dim)!r} cannot be reckoned")
