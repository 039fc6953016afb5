"""Each op's meaning as an ONNX function in standard ops, rendered for one set of attributes.

The bodies are the templates ``moe_export/moe/ops/*.onnxtxt``.  An attribute changes which lines a
body has, so a rendered body is straight-line ONNX for one variant of its op, and its ``overload``
names the variant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import jinja2
import numpy as np
import onnx.parser
import onnx_ir as ir

from moe_export.moe.layer import ROW_STEPS, AttributeValue
from moe_export.moe.schema import OPS, OpSchema

OPSET_VERSION = 21
"""The first opset whose DequantizeLinear knows int4 and blocks."""

_TEMPLATES = {
    "Router": "router.onnxtxt",
    "Experts": "experts.onnxtxt",
    "Dispatch": "dispatch.onnxtxt",
    "GroupedMatMul": "grouped_matmul.onnxtxt",
    "Combine": "combine.onnxtxt",
    "Linear": "linear_op.onnxtxt",
    "CachedAttention": "cached_attention.onnxtxt",
    "RotaryHeads": "rotary_heads.onnxtxt",
}
_BLANK_LINES = re.compile(r"\n\s*\n(\s*\n)*")


def function_for(
    op: str,
    attributes: Mapping[str, AttributeValue],
    present_inputs: tuple[str, ...],
    *,
    opset_version: int = OPSET_VERSION,
) -> ir.Function:
    """The ONNX function that ``op`` with these attributes and inputs stands for.

    It has all inputs and attributes of the op's schema and reads those that are present; nodes
    refer to it by ``overload``.  ``opset_version`` is the one of the graph it will live in.

    Raises ``ValueError`` where the attributes or inputs are not the op's, and for weights in
    panels, which only kernels read.
    """
    text = render(op, attributes, present_inputs, opset_version=opset_version)
    return ir.serde.deserialize_function(onnx.parser.parse_function(text))


def render(
    op: str,
    attributes: Mapping[str, AttributeValue],
    present_inputs: tuple[str, ...],
    *,
    opset_version: int = OPSET_VERSION,
) -> str:
    """The text of ``function_for``, for people."""
    if opset_version < OPSET_VERSION:
        raise ValueError(f"the bodies need opset {OPSET_VERSION}, the graph has {opset_version}")
    schema = OPS[op]
    complete = _complete(schema, attributes)
    if complete.get("weight_layout", "rows") != "rows":
        raise ValueError(f"{op} with weights in {complete['weight_layout']!r} has no ONNX body")
    _require_inputs(schema, complete, present_inputs)
    text = (
        _templates()
        .get_template(_TEMPLATES[op])
        .render(
            overload=overload_of(op, attributes, present_inputs),
            opset_version=opset_version,
            has={input.name: input.name in present_inputs for input in schema.inputs},
            **complete,
        )
    )
    return _BLANK_LINES.sub("\n\n", text) + "\n"


def overload_of(
    op: str, attributes: Mapping[str, AttributeValue], present_inputs: tuple[str, ...]
) -> str:
    """The name of a variant, such as ``softmax.top2.normalized``.

    Two variants of an op have the same name only where they have the same body.
    """
    given = _complete(OPS[op], attributes)
    if op == "Router":
        words = _router_words(given)
    elif op == "Experts":
        words = _experts_words(given, has_up="up" in present_inputs)
    elif op == "Dispatch":
        words = [f"experts{given['num_experts']}"]
    elif op == "Combine":
        words = ["plain"]
    elif op == "CachedAttention":
        words = [f"times{given['scale']}" if given["scale"] else "by_root"]
    elif op == "RotaryHeads":
        words = _rotary_words(given, has_norm="norm" in present_inputs)
    else:
        words = _storage_words(given)
    # Matrices and scales are told by the words above.
    told = {"up", "up_scales", "down_scales", "scales"}
    names = [input.name for input in OPS[op].inputs if input.optional and input.name not in told]
    return ".".join(words + [name for name in names if name in present_inputs])


def _router_words(given: Mapping[str, AttributeValue]) -> list[str]:
    words = [str(given["score"]), f"top{given['top_k']}"]
    if given["num_groups"] != 1:
        best = f"best{given['topk_groups']}of{given['num_groups']}"
        words.append(f"{best}_by_{given['group_score']}")
    if given["normalize"]:
        words.append("normalized")
        words += [f"eps{given['normalize_eps']}"] if given["normalize_eps"] else []
        words += [f"min{given['normalize_min']}"] if given["normalize_min"] else []
    if given["routed_scaling"] != 1.0:
        words.append(f"times{given['routed_scaling']}")
    return words


def _experts_words(given: Mapping[str, AttributeValue], *, has_up: bool) -> list[str]:
    words = [str(given["activation"]) if has_up else "linear"]
    if given["activation"] == "swiglu_clamped":
        words.append(f"alpha{given['alpha']}_limit{given['limit']}")
    if has_up and given["gated"]:
        words.append("gated" if given["gate_layout"] == "concatenated" else "gated_interleaved")
    if given["weight_on"] == "input":
        words.append("on_input")
    return words + _storage_words(given)


def _rotary_words(given: Mapping[str, AttributeValue], *, has_norm: bool) -> list[str]:
    words = [f"heads{given['num_heads']}"]
    return [*words, f"eps{given['epsilon']}"] if has_norm and given["epsilon"] else words


def _storage_words(given: Mapping[str, AttributeValue]) -> list[str]:
    weight_format, row_format = str(given["weight_format"]), given["row_format"]
    if weight_format in ("int8", "int4"):
        weight_format += f"_b{given['block_size']}" if given["block_size"] else "_rows"
    return [weight_format] if row_format == "f32" else [weight_format, f"rounded_{row_format}"]


def _complete(
    schema: OpSchema, attributes: Mapping[str, AttributeValue]
) -> dict[str, AttributeValue]:
    """All attributes of the op in schema order, floats as the float32 that ONNX stores."""
    known = {attribute.name: attribute for attribute in schema.attributes}
    if unknown := sorted(set(attributes) - set(known)):
        raise ValueError(f"{schema.name} has no attributes {unknown}")
    complete: dict[str, AttributeValue] = {}
    for name, attribute in known.items():
        value = attributes.get(name, attribute.default)
        if value is None:
            raise ValueError(f"{schema.name} needs the attribute {name!r}")
        complete[name] = float(str(np.float32(value))) if attribute.type == "float" else value
    return complete


def _require_inputs(
    schema: OpSchema, given: Mapping[str, AttributeValue], present: tuple[str, ...]
) -> None:
    known = [input.name for input in schema.inputs]
    if unknown := sorted(set(present) - set(known)):
        raise ValueError(f"{schema.name} has no inputs {unknown}")
    required = {input.name for input in schema.inputs if not input.optional}
    if given.get("weight_format") in ("int8", "int4"):
        scales_of = {
            "up": "up_scales",
            "down": "down_scales",
            "weights": "scales",
            "weight": "scales",
        }
        required |= {scales for name, scales in scales_of.items() if name in present}
    elif given.get("row_format") in ROW_STEPS:
        raise ValueError(
            f"{schema.name} with {given['row_format']} rows needs int8 or int4 weights"
        )
    if missing := sorted(required - set(present)):
        raise ValueError(f"{schema.name} with {dict(given)} needs the inputs {missing}")


@cache
def _templates() -> jinja2.Environment:
    folder = files("moe_export.moe") / "ops"
    loader = jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8"))
    return jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701  the output is ONNX text, not HTML
    )
