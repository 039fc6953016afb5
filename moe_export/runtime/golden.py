"""Golden tensors as one safetensors file: one owner for its writer and its reader.

Keys: ``cases/<i>/<group>/<name>`` with the groups ``inputs``, ``outputs``, ``outputs_reference``,
``outputs_edge_error`` and ``outputs_rewritten_error``, ``cases/<i>/modality``,
``cases/<i>/layers/<layer>/<field of LayerTensors>``, ``experts/<block>/<field of ExpertCase>`` and
``continuations/<i>/...``.  The names of cases and continuations are in the metadata, and the
component that each case is a run of.

What is read is the header.  Tensors stay in the file until somebody asks for one, and are forgotten
by then: a reader that goes case by case, layer by layer, has one of them in memory.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from moe_export.errors import UnsafeInputError
from moe_export.forms import (
    MODALITIES,
    Array,
    Asked,
    Continuation,
    ExpertCase,
    Golden,
    GoldenCase,
    LayerTensors,
)
from moe_export.runtime.tensor_file import TensorFile, tensor_file
from moe_export.strict_json import decode, parse

_METADATA = "moe_export.golden"
_ERRORS = ("outputs_edge_error", "outputs_rewritten_error")
_TENSOR_GROUPS = ("inputs", "outputs", "outputs_reference", *_ERRORS)

_CODES = "modality"
_ASKED = {"ids": np.int64, "positions": np.int64, "modality": np.uint8}
_SAID = {"likeliest": np.int64, "log_probabilities": np.float64}

Value = TypeVar("Value")
T = TypeVar("T", LayerTensors, ExpertCase)


@dataclass(frozen=True, kw_only=True)
class _Metadata:
    cases: tuple[str, ...]
    components: tuple[str, ...]
    continuations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.cases) != len(self.components):
            raise ValueError(f"{len(self.cases)} cases have {len(self.components)} components")


def golden_to_bytes(golden: Golden) -> bytes:
    """The safetensors file for ``golden``; equal tensors give equal bytes."""
    facts = {
        "cases": [case.name for case in golden.cases],
        "components": [case.component for case in golden.cases],
        "continuations": [continuation.name for continuation in golden.continuations],
    }
    return tensor_file(dict(_flatten(golden)), {_METADATA: json.dumps(facts)})


def _flatten(golden: Golden) -> Iterator[tuple[str, Array]]:
    for index, case in enumerate(golden.cases):
        for group in _TENSOR_GROUPS:
            for name, tensor in getattr(case, group).items():
                yield f"cases/{index}/{group}/{name}", tensor
        yield f"cases/{index}/{_CODES}", case.modality
        for layer, tensors in case.layers.items():
            for field in fields(tensors):
                yield f"cases/{index}/layers/{layer}/{field.name}", getattr(tensors, field.name)
    for layer, expert_case in golden.experts.items():
        for field in fields(expert_case):
            yield f"experts/{layer}/{field.name}", getattr(expert_case, field.name)
    for index, continuation in enumerate(golden.continuations):
        for name, tensor in _flatten_said(continuation):
            yield f"continuations/{index}/{name}", tensor


def _flatten_said(continuation: Continuation) -> Iterator[tuple[str, Array]]:
    yield from ((name, getattr(continuation.asked, name)) for name in _ASKED)
    yield from ((name, getattr(continuation, name)) for name in _SAID)
    yield from ((f"images/{name}", x) for name, x in continuation.asked.images.items())
    yield from ((f"margins/{layer}", x) for layer, x in continuation.margins.items())


def read_golden(path: Path) -> Golden:
    """The golden tensors at ``path``, none of them read.

    ``UnsafeInputError`` where they are not what is specified, now or when one is read.
    """
    file = TensorFile(path)
    content = file.metadata.get(_METADATA)
    if content is None:
        raise UnsafeInputError(f"metadata {_METADATA!r} is missing", where=str(path))
    facts = decode(_Metadata, parse(content.encode(), str(path)), str(path), defaults=True)
    try:
        return _File(file).golden(facts)
    except ValueError as error:
        raise UnsafeInputError(str(error), where=str(path)) from error


class _Read(Mapping[str, Value], Generic[Value]):
    """Values that are read whenever they are asked for, and not kept."""

    def __init__(self, readers: Mapping[str, Callable[[], Value]]) -> None:
        self._readers = readers

    def __getitem__(self, key: str) -> Value:
        return self._readers[key]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


class _File:
    """A golden file whose header was read: its tensors by key, each read when it is asked for."""

    def __init__(self, tensors: TensorFile) -> None:
        self._file = tensors

    def golden(self, facts: _Metadata) -> Golden:
        """All that the keys name; ``ValueError`` where they are not those of a golden file."""
        groups: dict[tuple[int, str], dict[str, str]] = defaultdict(dict)
        layers: dict[int, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
        experts: dict[str, dict[str, str]] = defaultdict(dict)
        said: dict[int, dict[str, str]] = defaultdict(dict)
        for key in self._file:
            kind, _, rest = key.partition("/")
            if kind == "experts":
                layer, _, field = rest.rpartition("/")
                experts[layer][field] = key
                continue
            if kind == "continuations":
                number, name = _indexed(key, rest, len(facts.continuations))
                said[number][name] = key
                continue
            index, group, name = _case_key(key, rest, len(facts.cases))
            if group == "layers":
                layer, _, field = name.rpartition("/")
                layers[index][layer][field] = key
            else:
                groups[index, group][name] = key
        cases = tuple(
            GoldenCase(
                name=name,
                component=component,
                layers=self._records(LayerTensors, layers[i]),
                modality=self._codes(groups[i, _CODES], name),
                **{group: self._tensors(groups[i, group]) for group in _TENSOR_GROUPS},
            )
            for i, (name, component) in enumerate(zip(facts.cases, facts.components, strict=True))
        )
        for case in cases:
            _check_outputs(case)
        return Golden(
            cases=cases,
            experts=self._records(ExpertCase, experts),
            continuations=tuple(
                self._continuation(name, said[number])
                for number, name in enumerate(facts.continuations)
            ),
        )

    def _tensors(self, keys: Mapping[str, str]) -> _Read[Array]:
        return _Read({name: partial(self._file.__getitem__, key) for name, key in keys.items()})

    def _codes(self, keys: Mapping[str, str], case: str) -> Array:
        if keys.keys() != {""}:
            raise ValueError(f"case {case[:200]!r} does not say what its tokens are of")
        return _checked_codes(f"{case}/{_CODES}", self._file[keys[""]])

    def _records(self, kind: type[T], layers: Mapping[str, Mapping[str, str]]) -> _Read[T]:
        for layer, keys in layers.items():
            _check_fields(kind, keys, layer)
            for name, key in keys.items():
                if name.endswith("_error"):
                    _check_scalar(f"{layer}/{name}", self._file[key])
        return _Read(
            {layer: partial(self._record, kind, layer, keys) for layer, keys in layers.items()}
        )

    def _record(self, kind: type[T], layer: str, keys: Mapping[str, str]) -> T:
        values: dict[str, Any] = {name: self._file[key] for name, key in keys.items()}
        if _CODES in values:
            _checked_codes(f"{layer}/{_CODES}", values[_CODES])
        return kind(**values)

    def _continuation(self, name: str, keys: Mapping[str, str]) -> Continuation:
        plain = {key: self._file[keys[key]] for key in (*_ASKED, *_SAID) if key in keys}
        inside: dict[str, dict[str, str]] = {"images": {}, "margins": {}}
        for key in keys.keys() - plain.keys():
            group, _, rest = key.partition("/")
            if group not in inside:
                raise ValueError(f"continuation {name[:200]!r} has an unknown tensor {key[:200]!r}")
            inside[group][rest] = keys[key]
        _check_continuation(name, plain)
        return Continuation(
            name=name,
            asked=Asked(
                **{key: plain[key] for key in _ASKED}, images=self._tensors(inside["images"])
            ),
            **{key: plain[key] for key in _SAID},
            margins=self._tensors(inside["margins"]),
        )


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


def _check_continuation(name: str, plain: Mapping[str, Array]) -> None:
    """All tensors are there, of their types, and of one number of steps and of tokens."""
    kinds = {**_ASKED, **_SAID}
    right = plain.keys() == kinds.keys() and all(plain[key].dtype == kinds[key] for key in kinds)
    if not right:
        raise ValueError(f"continuation {name[:200]!r} has missing tensors, or of other types")
    ids, positions, likeliest = plain["ids"], plain["positions"], plain["likeliest"]
    shapes = (
        ids.shape[:1] == (1,),
        positions.shape in (ids.shape, (3, *ids.shape)),
        plain["modality"].shape == ids.shape,
        likeliest.ndim == 2 and likeliest.size > 0,
        plain["log_probabilities"].shape == likeliest.shape,
    )
    if ids.ndim != 2 or not ids.size or not all(shapes):
        raise ValueError(f"continuation {name[:200]!r} has tensors of odd shapes")
    _checked_codes(name, plain["modality"])


def _case_key(key: str, rest: str, cases: int) -> tuple[int, str, str]:
    index, name = _indexed(key, rest, cases)
    group, _, name = name.partition("/")
    known = group in (*_TENSOR_GROUPS, "layers") and name
    if not key.startswith("cases/") or not (known or (group == _CODES and not name)):
        raise ValueError(f"unknown golden tensor {key[:200]!r}")
    return index, group, name


def _indexed(key: str, rest: str, count: int) -> tuple[int, str]:
    """The number in front, below ``count``, and what follows it."""
    index, _, rest = rest.partition("/")
    if index not in map(str, range(count)):
        raise ValueError(f"unknown golden tensor {key[:200]!r}")
    return int(index), rest


def _check_fields(kind: type[T], keys: Mapping[str, str], layer: str) -> None:
    expected = {field.name for field in fields(kind)}
    if keys.keys() != expected:
        odd = sorted(keys.keys() ^ expected)
        raise ValueError(f"golden layer {layer[:200]!r} has missing or unknown tensors {odd}"[:400])


def _check_scalar(name: str, tensor: Array) -> None:
    if tensor.shape or tensor.dtype != np.float64:
        raise ValueError(f"golden tensor {name[:200]!r} is not one number in float64")


def _checked_codes(name: str, tensor: Array) -> Array:
    if tensor.dtype != np.uint8 or (tensor >= len(MODALITIES)).any():
        raise ValueError(f"golden tensor {name[:200]!r} is not of modalities")
    return tensor
