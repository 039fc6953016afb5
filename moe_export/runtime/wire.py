"""Where an ONNX graph keeps data outside itself, read from its bytes without the onnx package.

ONNX files are Protocol Buffers: a message is a run of tags ``field number << 3 | wire type``, each
with its value (protobuf.dev/programming-guides/encoding).  Only the fields below, numbered as in
``onnx.proto`` (IR versions up to 13), lead to a tensor; everything else is stepped over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Message and field number to the message inside.
_CHILDREN: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},  # initialization, algorithm
    "Function": {7: "Node", 11: "Attribute"},  # node, attribute_proto
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},  # node, initializer, sparse_initializer
    "Node": {5: "Attribute"},
    # t, g, tensors, graphs, sparse_tensor, sparse_tensors
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor"}
    | {23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},  # values, indices
}
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14
_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Protocol Buffers' own readers stop at 100 levels.
_MAX_DEPTH = 100
_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class ExternalData:
    """Bytes of a tensor that lie at ``offset`` of another file, ``length`` of them."""

    tensor: str
    location: str
    offset: int
    length: int


def external_data(model: bytes) -> Iterator[ExternalData]:
    """Every reference of a serialized ``ModelProto`` to data outside itself, at any depth.

    Raises ``ValueError`` where the bytes are no message, or a reference does not say exactly where
    its data begins and ends.
    """
    for tensor in _tensors(memoryview(model), "Model", 0):
        reference = reference_of(tensor)
        if reference is not None:
            yield reference


def _tensors(message: memoryview, kind: str, depth: int) -> Iterator[memoryview]:
    if kind == "Tensor":
        yield message
        return
    if depth > _MAX_DEPTH:
        raise ValueError(f"messages are nested deeper than {_MAX_DEPTH} levels")
    children = _CHILDREN[kind]
    for number, value in _fields(message):
        if number in children and isinstance(value, memoryview):
            yield from _tensors(value, children[number], depth + 1)


def reference_of(tensor: memoryview) -> ExternalData | None:
    """Where a ``TensorProto`` keeps its data, if that is outside itself."""
    name, external, entries = "", False, {}
    for number, value in _fields(tensor):
        if number == _TENSOR_NAME and isinstance(value, memoryview):
            name = str(value, "utf-8")
        elif number == _TENSOR_DATA_LOCATION:
            external = value == _EXTERNAL
        elif number == _TENSOR_EXTERNAL_DATA and isinstance(value, memoryview):
            key, text = _entry(value)
            if key in entries:
                raise ValueError(f"tensor {name!r} states its {key!r} twice")
            entries[key] = text
    if not external and not entries:
        return None
    if entries.keys() != {"location", "offset", "length"}:
        raise ValueError(f"tensor {name!r} has external data described by {sorted(entries)}")
    return ExternalData(
        name, entries["location"], _number(entries["offset"]), _number(entries["length"])
    )


def _entry(message: memoryview) -> tuple[str, str]:
    """A ``StringStringEntryProto``: key is field 1, value field 2, and the last of each counts."""
    texts = {1: "", 2: ""}
    for number, value in _fields(message):
        if number in texts and isinstance(value, memoryview):
            texts[number] = str(value, "utf-8")
    return texts[1], texts[2]


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not an offset or a length")
    return int(text)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and what has a length; a number of fixed size leads to no tensor."""
    for number, wire_type, value in fields(message):
        if wire_type in (_VARINT, _BYTES):
            yield number, value


def fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Field number, wire type and value of every field; all but varints as their bytes.

    Raises ``ValueError`` where the bytes are no message.
    """
    position = 0
    while position < len(message):
        tag, position = varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if not number:
            raise ValueError("a field has the number 0")
        if wire_type == _VARINT:
            value, position = varint(message, position)
            yield number, wire_type, value
            continue
        if wire_type == _BYTES:
            size, position = varint(message, position)
        elif wire_type in (_FIXED64, _FIXED32):
            size = 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError(f"field {number} has the wire type {wire_type}")
        if size > len(message) - position:
            raise ValueError(f"field {number} reaches past the end")
        yield number, wire_type, message[position : position + size]
        position += size


def varint(message: memoryview, position: int) -> tuple[int, int]:
    """Seven bits a byte, least first; at most ten bytes."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("a number is cut off")
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number is longer than ten bytes")
