"""Golden tensors as one safetensors file: one owner for its writer and its reader.

Keys: ``cases/<i>/<group>/<name>`` with the groups ``inputs``, ``outputs``, ``outputs_reference``,
``outputs_edge_error`` and ``outputs_rewritten_error``,
``cases/<i>/layers/<layer>/<field of LayerTensors>`` and
``experts/<layer>/<field of ExpertCase>``.  The names of the cases are in the metadata, and the
component that each is a run of.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors
import safetensors.numpy

from moe_export.errors import UnsafeInputError
from moe_export.forms import Array, ExpertCase, Golden, GoldenCase, LayerTensors
from moe_export.strict_json import decode, parse

# safetensors writes its metadata in no fixed order, so there is one key and the bytes are stable.
_METADATA = "moe_export.golden"
# As the library: a header of more than 100 MB is an attack.
_MAX_HEADER = 100_000_000
_ERRORS = ("outputs_edge_error", "outputs_rewritten_error")
_TENSOR_GROUPS = ("inputs", "outputs", "outputs_reference", *_ERRORS)

T = TypeVar("T", LayerTensors, ExpertCase)


@dataclass(frozen=True, kw_only=True)
class _Metadata:
    cases: tuple[str, ...]
    components: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.cases) != len(self.components):
            raise ValueError(f"{len(self.cases)} cases have {len(self.components)} components")


def golden_to_bytes(golden: Golden) -> bytes:
    """The safetensors file for ``golden``; equal tensors give equal bytes."""
    # safetensors copies memory as it lies: a transposed view would be written transposed.
    tensors = {key: np.asarray(value, order="C") for key, value in _flatten(golden)}
    facts = {
        "cases": [case.name for case in golden.cases],
        "components": [case.component for case in golden.cases],
    }
    content: bytes = safetensors.numpy.save(tensors, metadata={_METADATA: json.dumps(facts)})
    return content


def _flatten(golden: Golden) -> Iterator[tuple[str, Array]]:
    for index, case in enumerate(golden.cases):
        for group in _TENSOR_GROUPS:
            for name, tensor in getattr(case, group).items():
                yield f"cases/{index}/{group}/{name}", tensor
        for layer, tensors in case.layers.items():
            for field in fields(tensors):
                yield f"cases/{index}/layers/{layer}/{field.name}", getattr(tensors, field.name)
    for layer, expert_case in golden.experts.items():
        for field in fields(expert_case):
            yield f"experts/{layer}/{field.name}", getattr(expert_case, field.name)


def read_golden(path: Path) -> Golden:
    """The golden tensors at ``path``; ``UnsafeInputError`` where they are not what is specified."""
    _check_header(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise UnsafeInputError(f"not a safetensors file: {error}", where=str(path)) from error
    content = metadata.get(_METADATA)
    if content is None:
        raise UnsafeInputError(f"metadata {_METADATA!r} is missing", where=str(path))
    facts = decode(_Metadata, parse(content.encode(), str(path)), str(path))
    try:
        return _unflatten(facts, tensors)
    except ValueError as error:
        raise UnsafeInputError(str(error), where=str(path)) from error


def _check_header(path: Path) -> None:
    """Refuse a header longer than the file before anything allocates for it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
    header = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or header > min(size - 8, _MAX_HEADER):
        raise UnsafeInputError(
            f"the safetensors header says {header} bytes, the file has {size}", where=str(path)
        )


def _unflatten(facts: _Metadata, tensors: Mapping[str, Array]) -> Golden:
    groups: dict[tuple[int, str], dict[str, Array]] = defaultdict(dict)
    layers: dict[int, dict[str, dict[str, Array]]] = defaultdict(lambda: defaultdict(dict))
    experts: dict[str, dict[str, Array]] = defaultdict(dict)
    for key, tensor in tensors.items():
        kind, _, rest = key.partition("/")
        if kind == "experts":
            layer, _, field = rest.rpartition("/")
            experts[layer][field] = tensor
            continue
        index, group, name = _case_key(key, rest, len(facts.cases))
        if group == "layers":
            layer, _, field = name.rpartition("/")
            layers[index][layer][field] = tensor
        else:
            groups[index, group][name] = tensor
    cases = tuple(
        GoldenCase(
            name=name,
            component=component,
            layers={layer: _record(LayerTensors, layers[i][layer], layer) for layer in layers[i]},
            **{group: groups[i, group] for group in _TENSOR_GROUPS},
        )
        for i, (name, component) in enumerate(zip(facts.cases, facts.components, strict=True))
    )
    for case in cases:
        _check_outputs(case)
    records = {layer: _record(ExpertCase, experts[layer], layer) for layer in experts}
    return Golden(cases=cases, experts=records)


def _check_outputs(case: GoldenCase) -> None:
    """Every output has its reference and its errors."""
    errors = [getattr(case, group) for group in _ERRORS]
    for group in (case.outputs_reference, *errors):
        if group.keys() != case.outputs.keys():
            odd = sorted(group.keys() ^ case.outputs.keys())
            raise ValueError(f"case {case.name[:200]!r} has outputs {odd} in part only"[:400])
    for group in errors:
        for name, error in group.items():
            _check_scalar(name, error)


def _case_key(key: str, rest: str, cases: int) -> tuple[int, str, str]:
    index, _, rest = rest.partition("/")
    group, _, name = rest.partition("/")
    known = group in (*_TENSOR_GROUPS, "layers") and name
    if not key.startswith("cases/") or not known or index not in map(str, range(cases)):
        raise ValueError(f"unknown golden tensor {key[:200]!r}")
    return int(index), group, name


def _record(kind: type[T], tensors: Mapping[str, Array], layer: str) -> T:
    expected = {field.name for field in fields(kind)}
    if tensors.keys() != expected:
        odd = sorted(tensors.keys() ^ expected)
        raise ValueError(f"golden layer {layer[:200]!r} has missing or unknown tensors {odd}"[:400])
    for name, tensor in tensors.items():
        if name.endswith("_error"):
            _check_scalar(f"{layer}/{name}", tensor)
    values: dict[str, Any] = dict(tensors)
    return kind(**values)


def _check_scalar(name: str, tensor: Array) -> None:
    if tensor.shape or tensor.dtype != np.float64:
        raise ValueError(f"golden tensor {name[:200]!r} is not one number in float64")
