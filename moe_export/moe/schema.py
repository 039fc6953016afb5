"""The op set ``moe_export`` version 1 as data: the one place where its signatures are written.

The torch ops, the ONNX schemas, the function bodies and the kernels are compared with this table
by tests.  What the ops *mean* is in ``reference/`` (NumPy) and ``ops/*.onnxtxt`` (ONNX).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moe_export.moe.layer import AttributeValue

DOMAIN = "moe_export"
VERSION = 1

ElementType = Literal["float", "int32", "bool", "weight", "scale"]


@dataclass(frozen=True)
class Input:
    """An input of an op.

    ``weight`` may be stored in any weight format, or in panels (``docs/panels.md``) as uint8
    ``[bytes]``; ``scale`` is float.
    """

    name: str
    shape: str
    type: ElementType = "float"
    optional: bool = False


@dataclass(frozen=True)
class Output:
    """An output of an op."""

    name: str
    shape: str
    type: ElementType = "float"


@dataclass(frozen=True)
class Attribute:
    """An attribute and its default; ``None`` means that it must be given."""

    name: str
    type: Literal["int", "float", "string"]
    default: AttributeValue | None


@dataclass(frozen=True)
class OpSchema:
    """The signature of one op."""

    name: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    attributes: tuple[Attribute, ...]


STORAGE = (
    Attribute("weight_format", "string", "f32"),
    Attribute("block_size", "int", 0),
    Attribute("row_format", "string", "f32"),
    Attribute("weight_layout", "string", "rows"),
)
"""How an op's weights are stored, and what its rows are rounded to before they meet them."""

ROUTER = OpSchema(
    "Router",
    inputs=(
        Input("router_logits", "[T,E]"),
        Input("correction_bias", "[E]", optional=True),
        Input("expert_scale", "[E]", optional=True),
    ),
    outputs=(Output("topk_weights", "[T,K]"), Output("topk_ids", "[T,K]", "int32")),
    attributes=(
        Attribute("top_k", "int", None),
        Attribute("score", "string", "softmax"),
        Attribute("normalize", "int", 0),
        Attribute("normalize_eps", "float", 0.0),
        Attribute("normalize_min", "float", 0.0),
        Attribute("num_groups", "int", 1),
        Attribute("topk_groups", "int", 1),
        Attribute("group_score", "string", "max"),
        Attribute("routed_scaling", "float", 1.0),
    ),
)

EXPERTS = OpSchema(
    "Experts",
    inputs=(
        Input("x", "[T,H]"),
        Input("topk_ids", "[T,K]", "int32"),
        Input("topk_weights", "[T,K]"),
        Input("up", "[E,I,H] or gate_up [E,2I,H]", "weight", optional=True),
        Input("down", "[E,Hout,I]", "weight"),
        Input("up_bias", "[E,I] or [E,2I]", optional=True),
        Input("down_bias", "[E,Hout]", optional=True),
        Input("up_scales", "[E,I or 2I,H/block]", "scale", optional=True),
        Input("up_zeros", "[E,I or 2I,H/block]", "weight", optional=True),
        Input("down_scales", "[E,Hout,I/block]", "scale", optional=True),
        Input("down_zeros", "[E,Hout,I/block]", "weight", optional=True),
    ),
    outputs=(Output("y", "[T,Hout]"),),
    attributes=(
        Attribute("activation", "string", "silu"),
        Attribute("gated", "int", 1),
        Attribute("gate_layout", "string", "concatenated"),
        Attribute("weight_on", "string", "output"),
        Attribute("alpha", "float", 1.702),
        Attribute("limit", "float", 7.0),
        *STORAGE,
    ),
)

DISPATCH = OpSchema(
    "Dispatch",
    inputs=(Input("topk_ids", "[T,K]", "int32"),),
    outputs=(Output("order", "[S]", "int32"), Output("expert_offsets", "[E+1]", "int32")),
    attributes=(Attribute("num_experts", "int", None),),
)

GROUPED_MATMUL = OpSchema(
    "GroupedMatMul",
    inputs=(
        Input("x_sorted", "[S,H]"),
        Input("expert_offsets", "[E+1]", "int32"),
        Input("weights", "[E,N,H]", "weight"),
        Input("bias", "[E,N]", optional=True),
        Input("scales", "[E,N,H/block]", "scale", optional=True),
        Input("zeros", "[E,N,H/block]", "weight", optional=True),
    ),
    outputs=(Output("y_sorted", "[S,N]"),),
    attributes=STORAGE,
)

LINEAR = OpSchema(
    "Linear",
    inputs=(
        Input("x", "[..,H]"),
        Input("weight", "[N,H]", "weight"),
        Input("bias", "[N]", optional=True),
        Input("scales", "[N,H/block]", "scale", optional=True),
        Input("zeros", "[N,H/block]", "weight", optional=True),
    ),
    outputs=(Output("y", "[..,N]"),),
    attributes=STORAGE,
)

COMBINE = OpSchema(
    "Combine",
    inputs=(
        Input("y_sorted", "[S,N]"),
        Input("order", "[S]", "int32"),
        Input("topk_weights", "[T,K]"),
    ),
    outputs=(Output("y", "[T,N]"),),
    attributes=(),
)

CACHED_ATTENTION = OpSchema(
    "CachedAttention",
    inputs=(
        Input("query", "[B,S,N*d]"),
        Input("key", "[B,S,M*d]"),
        Input("value", "[B,S,M*v]"),
        Input("mask", "[B or 1,1,S,P+S]", "bool"),
        Input("past_key", "[P,B,M,d]"),
        Input("past_value", "[P,B,M,v]"),
    ),
    outputs=(
        Output("y", "[B,S,N*v]"),
        Output("present_key", "[P+S,B,M,d]"),
        Output("present_value", "[P+S,B,M,v]"),
    ),
    attributes=(Attribute("scale", "float", 0.0),),
)

ROTARY_HEADS = OpSchema(
    "RotaryHeads",
    inputs=(
        Input("x", "[B,S,N*d]"),
        Input("cos", "[B,S,h]"),
        Input("sin", "[B,S,h]"),
        Input("norm", "[d]", optional=True),
    ),
    outputs=(Output("y", "[B,S,N*d]"),),
    attributes=(Attribute("num_heads", "int", None), Attribute("epsilon", "float", 0.0)),
)

_ALL = (
    ROUTER,
    EXPERTS,
    DISPATCH,
    GROUPED_MATMUL,
    COMBINE,
    LINEAR,
    CACHED_ATTENTION,
    ROTARY_HEADS,
)
OPS = {op.name: op for op in _ALL}
