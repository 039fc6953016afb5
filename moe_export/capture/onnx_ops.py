"""How the torch ops of ``moe_export`` are written in ONNX: node for node, by the schema table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnx.defs import OpSchema as OnnxSchema
from onnxscript import opset18
from onnxscript.values import Op, Opset

from moe_export.capture.repeats import BORDER, PROBE, REPEAT
from moe_export.capture.scatters import select_scatter, slice_scatter
from moe_export.moe.schema import DOMAIN, OPS, VERSION, OpSchema

_SNAKE = {
    "Router": "router",
    "Experts": "experts",
    "Dispatch": "dispatch",
    "GroupedMatMul": "grouped_matmul",
    "Combine": "combine",
    "Linear": "linear",
    "CachedAttention": "cached_attention",
    "RotaryHeads": "rotary_heads",
}
_TYPES = {
    "float": ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"],
    "int32": ["tensor(int32)"],
    "bool": ["tensor(bool)"],
    "weight": [
        f"tensor({name})" for name in ("float", "float16", "bfloat16", "int8", "uint8", "int4")
    ],
    "scale": ["tensor(float)"],
}
_ANY = [
    f"tensor({name})"
    for name in (
        *("float", "float16", "bfloat16", "double", "bool"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
]
_ATTRIBUTES = {
    "int": OnnxSchema.AttrType.INT,
    "float": OnnxSchema.AttrType.FLOAT,
    "string": OnnxSchema.AttrType.STRING,
}


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table that ``torch.onnx.export`` takes as ``custom_translation_table``."""
    opset = Opset(DOMAIN, VERSION)
    table = {
        getattr(torch.ops.moe_export, _SNAKE[name]).default: _node(
            Op(opset, name, _onnx_schema(schema)), len(schema.inputs), schema
        )
        for name, schema in OPS.items()
    }
    probe = Op(opset, PROBE, _probe_schema())
    table[torch.ops.moe_export.probe.default] = lambda x, name: probe(x, name=name)
    border = Op(opset, BORDER, _border_schema())
    table[torch.ops.moe_export.border.default] = lambda x, name: border(x, name=name)
    repeat = Op(opset, REPEAT, _repeat_schema())
    table[torch.ops.moe_export.repeat.default] = lambda xs, number, place: repeat(
        *xs, number=number, place=place
    )
    table[torch.ops.moe_export.topk.default] = _topk
    table[torch.ops.aten.conv3d.default] = _conv3d
    table[torch.ops.aten.slice_scatter.default] = slice_scatter
    table[torch.ops.aten.select_scatter.default] = select_scatter
    return table


def _topk(x: Any, k: int, dim: int, largest: bool) -> Any:
    return opset18.TopK(x, [k], axis=dim, largest=int(largest), sorted=1)


def _conv3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
    dilation: Sequence[int] = (1, 1, 1),
    groups: int = 1,
) -> Any:
    """The exporter's own (onnxscript 0.7) makes up a bias of a wrong shape where there is none.

    What covers all of its input, as where patches lie one by one, is a product of matrices.  ONNX
    Runtime would read the weight once for each patch: a tower of 12 blocks spent 28 % of its time
    there (784 patches, bfloat16).
    """
    if groups == 1 and not any(padding) and list(x.shape[2:]) == list(weight.shape[2:]):
        outputs, columns = weight.shape[0], math.prod(weight.shape[1:])
        rows = opset18.Reshape(x, [-1, columns])
        made = opset18.Gemm(rows, opset18.Reshape(weight, [outputs, columns]), bias, transB=1)
        return opset18.Reshape(made, [-1, outputs, 1, 1, 1])
    return opset18.Conv(
        x,
        weight,
        bias,
        strides=list(stride),
        pads=[*padding, *padding],
        dilations=list(dilation),
        group=groups,
    )


def _node(op: Op, num_inputs: int, schema: OpSchema) -> Callable[..., Any]:
    """A function of the torch op's arguments that appends the ONNX node."""
    names = [attribute.name for attribute in schema.attributes]

    def translate(*args: Any, **kwargs: Any) -> Any:
        inputs, positional = args[:num_inputs], args[num_inputs:]
        attributes = dict(zip(names, positional, strict=False)) | kwargs
        inputs += tuple(attributes.pop(i.name, None) for i in schema.inputs[len(inputs) :])
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        return op(*inputs, **attributes)

    return translate


def _onnx_schema(schema: OpSchema) -> OnnxSchema:
    option = OnnxSchema.FormalParameterOption
    return OnnxSchema(
        schema.name,
        DOMAIN,
        VERSION,
        inputs=[
            OnnxSchema.FormalParameter(
                i.name,
                f"{i.type}_{number}",
                param_option=option.Optional if i.optional else option.Single,
            )
            for number, i in enumerate(schema.inputs)
        ],
        outputs=[
            OnnxSchema.FormalParameter(o.name, f"{o.type}_out_{number}")
            for number, o in enumerate(schema.outputs)
        ],
        type_constraints=[
            (f"{i.type}_{number}", _TYPES[i.type], i.name) for number, i in enumerate(schema.inputs)
        ]
        + [
            (f"{o.type}_out_{number}", _TYPES[o.type], o.name)
            for number, o in enumerate(schema.outputs)
        ],
        attributes=[
            OnnxSchema.Attribute(a.name, _ATTRIBUTES[a.type], a.name, required=a.default is None)
            for a in schema.attributes
        ],
    )


def _probe_schema() -> OnnxSchema:
    return _copy_schema(PROBE, _TYPES["float"] + _TYPES["int32"])


def _border_schema() -> OnnxSchema:
    return _copy_schema(BORDER, _ANY)


def _copy_schema(name: str, types: Sequence[str]) -> OnnxSchema:
    return OnnxSchema(
        name,
        DOMAIN,
        VERSION,
        inputs=[OnnxSchema.FormalParameter("x", "T")],
        outputs=[OnnxSchema.FormalParameter("y", "T")],
        type_constraints=[("T", list(types), "any")],
        attributes=[OnnxSchema.Attribute("name", OnnxSchema.AttrType.STRING, "what it marks")],
    )


def _repeat_schema() -> OnnxSchema:
    several = OnnxSchema.FormalParameterOption.Variadic
    return OnnxSchema(
        REPEAT,
        DOMAIN,
        VERSION,
        inputs=[OnnxSchema.FormalParameter("xs", "T", param_option=several, is_homogeneous=False)],
        outputs=[OnnxSchema.FormalParameter("y", "U")],
        type_constraints=[("T", _ANY, "any"), ("U", _ANY, "any")],
        attributes=[
            OnnxSchema.Attribute("number", OnnxSchema.AttrType.INT, "of the layer"),
            OnnxSchema.Attribute("place", OnnxSchema.AttrType.INT, "of the output"),
        ],
    )
