"""``CachedAttention`` around ONNX's own ``Attention``, for targets that have a layer for that.

The op's meaning is ``moe/ops/cached_attention.onnxtxt``, in products and a softmax.  This body is
equal to it where a graph's opset has ``Attention`` and there is a query: the cache is put together
as there, and a query that sees nothing is zero, which ``Attention`` alone leaves open.
"""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir

from moe_export.moe.schema import DOMAIN

FIRST_OPSET = 23
"""That has ``Attention``."""

_OP = "CachedAttention"
_SCALE = "<scale = {scale}>"
_BODY = """
<domain: "{domain}", overload: "{overload}", opset_import: ["": {opset}]>
CachedAttention <scale: float = 0.0>
(query, key, value, mask, past_key, past_value) => (y, present_key, present_value)
{{
  batch = Shape <start = 0, end = 1> (query)
  length = Shape <start = 1, end = 2> (query)
  heads = Shape <start = 2, end = 3> (past_key)
  key_size = Shape <start = 3> (past_key)
  value_size = Shape <start = 3> (past_value)
  key_shape = Concat <axis = 0> (batch, length, heads, key_size)
  key_by_head = Reshape <allowzero = 1> (key, key_shape)
  key_rows = Transpose <perm = [1, 0, 2, 3]> (key_by_head)
  present_key = Concat <axis = 0> (past_key, key_rows)
  value_shape = Concat <axis = 0> (batch, length, heads, value_size)
  value_by_head = Reshape <allowzero = 1> (value, value_shape)
  value_rows = Transpose <perm = [1, 0, 2, 3]> (value_by_head)
  present_value = Concat <axis = 0> (past_value, value_rows)
  query_width = Shape <start = 2> (query)
  query_heads = Div (query_width, key_size)
  query_shape = Concat <axis = 0> (batch, length, query_heads, key_size)
  query_by_head = Reshape <allowzero = 1> (query, query_shape)
  queries = Transpose <perm = [0, 2, 1, 3]> (query_by_head)
  keys = Transpose <perm = [1, 2, 0, 3]> (present_key)
  values = Transpose <perm = [1, 2, 0, 3]> (present_value)
  attended = Attention {scale} (queries, keys, values, mask)
  last = Constant <value_ints = [-1]> ()
  numbers = Cast <to = 1> (mask)
  most = ReduceMax (numbers, last)
  sees = Cast <to = 9> (most)
  nothing = Constant <value_float = 0.0> ()
  y_heads = Where (sees, attended, nothing)
  y_by_head = Transpose <perm = [0, 2, 1, 3]> (y_heads)
  y_width = Mul (query_heads, value_size)
  y_shape = Concat <axis = 0> (batch, length, y_width)
  y = Reshape <allowzero = 1> (y_by_head, y_shape)
}}
"""


def attend_natively(graph: ir.Model) -> None:
    """Give the functions of ``CachedAttention`` that a graph carries this body.

    A graph of an older opset keeps the ones that it has.
    """
    opset = graph.graph.opset_imports[""]
    if opset < FIRST_OPSET:
        return
    scales = {
        node.overload: node.attributes["scale"].as_float() if "scale" in node.attributes else 0.0
        for node in graph.graph.all_nodes()
        if node.domain == DOMAIN and node.op_type == _OP
    }
    for overload, scale in scales.items():
        function = attention_body(scale, overload=overload, opset=opset)
        graph.functions[function.identifier()] = function


def attention_body(scale: float, *, overload: str, opset: int) -> ir.Function:
    """The body for a ``scale``, 0 for that of ``Attention`` itself: the root of the keys' width."""
    text = _BODY.format(
        domain=DOMAIN,
        overload=overload,
        opset=opset,
        scale=_SCALE.format(scale=repr(float(scale))) if scale else "",
    )
    return ir.serde.deserialize_function(onnx.parser.parse_function(text))
