"""The nodes and tensors of a bundle's graph, read from its bytes without the onnx package.

What runs a graph shows numbers and not what they are made of.  Whoever has to say which op is
wrong needs the op as it is written: its attributes, and its weights as they are stored.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moe_export.errors import UnsafeInputError
from moe_export.forms import Array
from moe_export.moe.layer import AttributeValue
from moe_export.runtime.wire import ExternalData, fields, reference_of, varint

if TYPE_CHECKING:
    from moe_export.runtime.bundle import Bundle, Graph

# Field numbers of onnx.proto, as in wire.py.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_STRING = 1, 2, 3, 4
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 4, 8, 9

# TensorProto.DataType to NumPy; the last two are ``ml_dtypes``.
_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16"}
_BFLOAT16, _INT4 = 16, 22


@dataclass(frozen=True)
class Node:
    """One operator: an absent input has the name ``""``."""

    domain: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeValue]
    """Numbers and texts; what is a tensor, a graph or a list is left out."""


@dataclass(frozen=True)
class _Tensor:
    data_type: int
    shape: tuple[int, ...]
    external: ExternalData | None
    raw: bytes


class Written:
    """One graph of a bundle as it is written.

    Raises ``UnsafeInputError`` where its file is no graph.
    """

    def __init__(self, bundle: Bundle, component: str, graph: Graph) -> None:
        self._path = bundle.graph_path(component, graph)
        try:
            nodes, self._tensors = _read(self._path)
        except ValueError as error:
            raise UnsafeInputError(f"no graph: {error}", where=str(self._path)) from error
        self._makers = {name: node for node in nodes for name in node.outputs}

    def maker(self, value: str) -> Node | None:
        """The node that makes a value, behind copies of it; ``None`` for an input or a weight."""
        node = self._makers.get(value)
        while node is not None and (node.domain, node.op_type) == ("", "Identity"):
            node = self._makers.get(node.inputs[0])
        return node

    def tensor(self, name: str) -> Array | None:
        """The numbers of a weight as they are stored; ``None`` for what is none."""
        tensor = self._tensors.get(name)
        if tensor is None:
            return None
        content = tensor.raw
        if tensor.external is not None:
            with (self._path.parent / tensor.external.location).open("rb") as file:
                file.seek(tensor.external.offset)
                content = file.read(tensor.external.length)
        return _array(content, tensor)


def _read(path: Path) -> tuple[list[Node], dict[str, _Tensor]]:
    nodes: list[Node] = []
    tensors: dict[str, _Tensor] = {}
    for number, graph in _messages(memoryview(path.read_bytes())):
        if number != _MODEL_GRAPH:
            continue
        for kind, message in _messages(graph):
            if kind == _GRAPH_NODE:
                nodes.append(_node(message))
            elif kind == _GRAPH_INITIALIZER:
                name, tensor = _tensor(message)
                tensors[name] = tensor
    return nodes, tensors


def _messages(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    for number, _, value in fields(message):
        if isinstance(value, memoryview):
            yield number, value


def _node(message: memoryview) -> Node:
    texts: dict[int, list[str]] = {
        key: [] for key in (_NODE_INPUT, _NODE_OUTPUT, _NODE_OP_TYPE, _NODE_DOMAIN)
    }
    attributes: dict[str, AttributeValue] = {}
    for number, value in _messages(message):
        if number in texts:
            texts[number].append(str(value, "utf-8"))
        elif number == _NODE_ATTRIBUTE:
            attributes |= _attribute(value)
    return Node(
        domain="".join(texts[_NODE_DOMAIN][-1:]),
        op_type="".join(texts[_NODE_OP_TYPE][-1:]),
        inputs=tuple(texts[_NODE_INPUT]),
        outputs=tuple(texts[_NODE_OUTPUT]),
        attributes=attributes,
    )


def _attribute(message: memoryview) -> dict[str, AttributeValue]:
    name = ""
    made: AttributeValue | None = None
    for number, _, value in fields(message):
        if number == _ATTRIBUTE_INT and isinstance(value, int):
            made = value - (1 << 64) if value >> 63 else value
        elif isinstance(value, int):
            continue
        elif number == _ATTRIBUTE_NAME:
            name = str(value, "utf-8")
        elif number == _ATTRIBUTE_FLOAT:
            made = struct.unpack("<f", value)[0]
        elif number == _ATTRIBUTE_STRING:
            made = str(value, "utf-8")
    return {} if made is None else {name: made}


def _tensor(message: memoryview) -> tuple[str, _Tensor]:
    name, data_type, raw = "", 0, b""
    shape: list[int] = []
    for number, _, value in fields(message):
        if number == _TENSOR_TYPE and isinstance(value, int):
            data_type = value
        elif number == _TENSOR_DIMS:
            shape += [value] if isinstance(value, int) else _varints(value)
        elif isinstance(value, int):
            continue
        elif number == _TENSOR_NAME:
            name = str(value, "utf-8")
        elif number in (_TENSOR_RAW, _TENSOR_FLOATS):
            raw += bytes(value)
    return name, _Tensor(data_type, tuple(shape), reference_of(message), raw)


def _varints(packed: memoryview) -> list[int]:
    made, position = [], 0
    while position < len(packed):
        value, position = varint(packed, position)
        made.append(value)
    return made


def _array(content: bytes, tensor: _Tensor) -> Array:
    if tensor.data_type in (_BFLOAT16, _INT4):
        import ml_dtypes

        if tensor.data_type == _BFLOAT16:
            return np.frombuffer(content, ml_dtypes.bfloat16).reshape(tensor.shape)
        both = np.frombuffer(content, np.uint8)
        halves = np.stack([both & 15, both >> 4], axis=-1).reshape(-1)
        count = int(np.prod(tensor.shape))
        signed = (halves[:count].astype(np.int8) ^ 8) - 8
        return signed.astype(ml_dtypes.int4).reshape(tensor.shape)
    if tensor.data_type not in _DTYPES:
        raise UnsafeInputError(f"a weight of the unknown type {tensor.data_type}")
    return np.frombuffer(content, _DTYPES[tensor.data_type]).reshape(tensor.shape)
