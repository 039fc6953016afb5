"""JSON that means exactly one thing: read strictly into frozen dataclasses, written canonically.

A reader that forgives (a key twice, ``NaN``, an unknown key, ``1`` for ``true``) lets two programs
read two different things in the same file.  This one refuses, and names the field.
"""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from moe_export.errors import UnsafeInputError

T = TypeVar("T")

# The deepest field of a manifest is 6 levels down (a dimension of an input of a component).
MAX_DEPTH = 16
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
"""The words for numbers that JSON has none for, where a file may hold such numbers."""

# Other languages read these numbers into 64 bits.
_MAX_INT = 2**63 - 1

# A whole string, also one that never ends (so that matching stays linear), or a bracket.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def parse(content: bytes, file: str) -> Any:
    """The JSON value in ``content``.

    Raises ``UnsafeInputError`` naming ``file`` for text that is not UTF-8 or not JSON, nests deeper
    than ``MAX_DEPTH``, holds a key twice, or ``NaN`` or ``Infinity``.
    """
    try:
        text = content.decode("utf-8")
        _refuse_depth(text)
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except ValueError as error:
        raise UnsafeInputError(f"not acceptable JSON: {error}", where=file) from error


def decode(
    kind: type[T],
    value: Any,
    file: str,
    field: str = "",
    *,
    defaults: bool = False,
    infinite: bool = False,
) -> T:
    """``value`` as the dataclass ``kind``, with every nested field of exactly the declared type.

    A field may be left out only where ``defaults`` is set and it has one.  Where ``infinite`` is
    set, a number may be one of the words ``NOT_FINITE``.  Raises ``UnsafeInputError`` naming
    ``file`` and the field.
    """
    return cast(T, _Decoder(file, defaults, infinite).read(kind, value, field))


def encode(value: Any) -> Any:
    """Dataclasses, mappings and tuples as the dictionaries and lists that JSON knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value


def render(value: Any) -> str:
    """Canonical text: sorted keys, two spaces, ASCII, LF, and no number that is not finite."""
    return json.dumps(encode(value), sort_keys=True, indent=2, allow_nan=False) + "\n"


def _refuse_depth(text: str) -> None:
    depth = 0
    for token in _TOKEN.finditer(text):
        first = token.group()[0]
        depth += (first in "[{") - (first in "]}")
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} occurs twice")
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


@dataclass(frozen=True)
class _Decoder:
    file: str
    defaults: bool
    infinite: bool

    def read(self, kind: Any, value: Any, field: str) -> Any:
        origin = get_origin(kind)
        if origin is Literal:
            return self._choice(get_args(kind), value, field)
        if origin in (Union, types.UnionType):
            return self._union(get_args(kind), value, field)
        if origin is tuple:
            return self._tuple(get_args(kind)[0], value, field)
        if origin is Mapping:
            return self._mapping(get_args(kind)[1], value, field)
        if is_dataclass(kind):
            return self._dataclass(kind, value, field)
        return self._scalar(kind, value, field)

    def _scalar(self, kind: Any, value: Any, field: str) -> Any:
        if kind is float and self.infinite and value in NOT_FINITE:
            return float(value)
        # A whole number where a float belongs stays one, so that it is written back as it was.
        whole = kind is float and type(value) is int
        if type(value) is not kind and not whole:
            raise self._wrong(f"expected {_words(kind)}, got {_words(type(value))}", field)
        if type(value) is int and abs(value) > _MAX_INT:
            raise self._wrong("the number does not fit 64 bits", field)
        if kind is float and not math.isfinite(value):
            raise self._wrong("the number is not finite", field)
        if kind is str and not _encodable(value):
            raise self._wrong("the text holds half a surrogate pair", field)
        return value

    def _choice(self, choices: tuple[Any, ...], value: Any, field: str) -> Any:
        if type(value) is str and value in choices:
            return value
        raise self._wrong(f"expected one of {', '.join(map(repr, choices))}, got {value!r}", field)

    def _union(self, kinds: tuple[Any, ...], value: Any, field: str) -> Any:
        """The first arm whose JSON type is the value's; arms of one type do not occur."""
        if value is None and type(None) in kinds:
            return None
        arms = [kind for kind in kinds if kind is not type(None)]
        same = [kind for kind in arms if _json_type(kind) is type(value)]
        return self.read((same or arms)[0], value, field)

    def _tuple(self, kind: Any, value: Any, field: str) -> tuple[Any, ...]:
        if type(value) is not list:
            raise self._wrong(f"expected a list, got {_words(type(value))}", field)
        return tuple(self.read(kind, item, f"{field}[{i}]") for i, item in enumerate(value))

    def _mapping(self, kind: Any, value: Any, field: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise self._wrong(f"expected an object, got {_words(type(value))}", field)
        for key in value:
            self._scalar(str, key, f"{field}.{key!r}")
        return {key: self.read(kind, item, f"{field}.{key}") for key, item in value.items()}

    def _dataclass(self, kind: Any, value: Any, field: str) -> Any:
        if type(value) is not dict:
            raise self._wrong(f"expected an object, got {_words(type(value))}", field)
        known = {item.name: item for item in fields(kind)}
        for name in value:
            if name not in known:
                raise self._wrong(f"unknown key {name!r}", field)
        for name, item in known.items():
            if name not in value and not (self.defaults and _has_default(item)):
                raise self._wrong(f"key {name!r} is missing", field)
        hints = get_type_hints(kind)
        prefix = f"{field}." if field else ""
        read = {name: self.read(hints[name], item, prefix + name) for name, item in value.items()}
        try:
            return kind(**read)
        except ValueError as error:
            raise self._wrong(str(error), field) from error

    def _wrong(self, message: str, field: str) -> UnsafeInputError:
        where = f"{self.file}, field {_printable(field)}" if field else self.file
        return UnsafeInputError(_printable(message), where=where)


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _json_type(kind: Any) -> type:
    if get_origin(kind) is Literal:
        return str
    if get_origin(kind) is tuple:
        return list
    if get_origin(kind) is Mapping or is_dataclass(kind):
        return dict
    return cast(type, kind)


def _words(kind: type) -> str:
    names = {str: "text", int: "an integer", float: "a number", bool: "true or false"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names[kind]


def _encodable(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _printable(text: str) -> str:
    """``text`` cut to a line that a terminal can show, whatever a hostile file put there."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return shown if len(shown) <= 200 else shown[:200] + "..."
