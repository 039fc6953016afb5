"""The NumPy oracle: what each op of the ``moe_export`` domain computes.

Written to be read and to be right, not to be fast.  Arithmetic is float64 where the tokens (for
the router: the logits) are float64, and float32 otherwise.  The laws are in ``docs/ops.md``.
"""

from moe_export.moe.reference.activations import activate, split_gate
from moe_export.moe.reference.attention import cached_attention
from moe_export.moe.reference.dequantize import dequantize
from moe_export.moe.reference.experts import combine, dispatch, experts, grouped_matmul, linear
from moe_export.moe.reference.rotary import rotary_heads
from moe_export.moe.reference.router import rivals, route, routing_margin, selecting_scores
from moe_export.moe.reference.rows import quantize_rows, round_rows

__all__ = [
    "activate",
    "cached_attention",
    "combine",
    "dequantize",
    "dispatch",
    "experts",
    "grouped_matmul",
    "linear",
    "quantize_rows",
    "rivals",
    "rotary_heads",
    "round_rows",
    "route",
    "routing_margin",
    "selecting_scores",
    "split_gate",
]
