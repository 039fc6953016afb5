"""The JSON Schema of parity reports, made of the dataclasses and their docstrings.

``python -m report.parity_schema`` in ``tests`` writes ``docs/parity.schema.json``.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from moe_export.forms import Report
from moe_export.report.parity import SCHEMA_VERSION
from moe_export.strict_json import NOT_FINITE

PAGE = Path(__file__).parents[2] / "docs" / "parity.schema.json"

_SCALARS = {
    str: {"type": "string"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    float: {"$ref": "#/$defs/number"},
}


def schema() -> dict[str, Any]:
    defs: dict[str, Any] = {
        "number": {
            "description": "A number, or the word for one that JSON has none for.",
            "anyOf": [{"type": "number"}, {"enum": list(NOT_FINITE)}],
        }
    }
    whole = _object(Report, defs)
    head = {
        "schema_version": {"const": SCHEMA_VERSION},
        "passed": {"description": "The verdict.", "type": "boolean"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Parity report of moe-export",
        **whole,
        "properties": {**head, **whole["properties"]},
        "required": [*head, *whole["required"]],
        "$defs": dict(sorted(defs.items())),
    }


def text() -> str:
    return json.dumps(schema(), indent=2) + "\n"


def _object(kind: type, defs: dict[str, Any]) -> dict[str, Any]:
    hints, said = get_type_hints(kind), _docstrings(kind)
    properties = {
        field.name: {
            **({"description": said[field.name]} if field.name in said else {}),
            **_of(hints[field.name], defs),
        }
        for field in fields(kind)
    }
    return {
        "description": _words(kind.__doc__ or ""),
        "type": "object",
        "properties": properties,
        "required": list(properties),  # a writer leaves nothing out
        "additionalProperties": False,
    }


def _of(kind: Any, defs: dict[str, Any]) -> dict[str, Any]:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(each, defs) for each in inner]}
    if origin is tuple:
        assert inner[1:] == (Ellipsis,), kind
        return {"type": "array", "items": _of(inner[0], defs)}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _of(inner[1], defs)}
    if is_dataclass(kind):
        if kind.__name__ not in defs:
            defs[kind.__name__] = _object(kind, defs)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    return dict(_SCALARS[kind])


def _docstrings(kind: type) -> dict[str, str]:
    """What stands below a field, by its name."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
    return {
        field.target.id: _words(below.value.value)
        for field, below in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }


def _words(docstring: str) -> str:
    return re.sub(r"\s+", " ", docstring).replace("``", "`").strip()


if __name__ == "__main__":
    PAGE.write_text(text())
