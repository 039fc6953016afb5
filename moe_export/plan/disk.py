"""What a bundle will take on a disk, from the sizes of its model alone."""

from __future__ import annotations

import math

from moe_export.moe.packing import packed_size
from moe_export.moe.quantize import Precision
from moe_export.plan.sizes import BlockFacts, Facts, Range

# Disk: three graphs and the reports take 25 KB and 25 KB a block, each weight starts on a page.
_GRAPH_BYTES = 25_000
_PAGE = 4096
# Golden tensors, in bytes for each token.  An output is stored in float32 and float64; a layer's x
# and y too, its logits and scores, and its routing for top_k up to 4.
_OUTPUT_BYTES = 4 + 8
_HIDDEN_BYTES = 2 * (4 + 8)
_LOGIT_BYTES = 4 + 8
_ROUTING_BYTES = 4 * (4 + 4 + 8) + 8
# The tokens of all golden cases: the example, one size larger, one smaller, and a single row.
# There may be more tokens than rows of input, as an image is one row and many patches: 2.5 times
# as many in the digits example.
_CASES_LOW, _CASES_HIGH = 3, 4
_TOKENS_PER_ROW = 4

# Of a model whose weights stay in their files, graphs and reports in bytes: in all, and for each
# decoder layer.  Seven bundles of three qwen3_vl_moe, of 4 and of 12 layers, 3.4 MB to 5.8 GB, in
# f32, bf16, int8 and int4, were predicted to within 1.2 %.
_LAZY_GRAPH_BYTES = 700_000
_LAZY_LAYER_BYTES = 25_000
_LAZY_ERROR = 0.10

_BITS = {"f32": 32, "bf16": 16, "f16": 16, "int8": 8, "int4": 4}


def disk_bytes(facts: Facts, precision: Precision, dense: Precision) -> Range:
    """Of the bundle, with experts and other products rounded so."""
    if facts.is_lazy:
        return _lazily(facts, precision, dense)
    graphs = _GRAPH_BYTES * (1 + len(facts.blocks))
    low, high = _CASES_LOW * facts.tokens, _CASES_HIGH * facts.tokens
    others = facts.weight_bytes - sum(block.matrix_bytes for block in facts.blocks)
    stored = [_stored_bytes(block, precision) for block in facts.blocks]
    return Range(
        low=others * _BITS[dense.format] // 32
        + sum(each.low for each in stored)
        + graphs
        + _golden_bytes(facts, low),
        high=others
        + sum(each.high for each in stored)
        + _PAGE * facts.tensors
        + graphs
        + _golden_bytes(facts, _TOKENS_PER_ROW * high)
        + _OUTPUT_BYTES * high * facts.output_size,
    )


def _stored_bytes(block: BlockFacts, precision: Precision) -> Range:
    """Of a block's experts: their numbers alone, or panels with whatever fills them up.

    Which axis is the input's is not known, so both are tried.  A block that is not proven in the
    end keeps its numbers.
    """
    if not block.matrices:
        return Range(low=0, high=0)
    least = sum(math.prod(shape) for shape in block.matrices) * _BITS[precision.format] // 8
    most = _panels(block, precision)
    return Range(low=min(least, block.matrix_bytes), high=max(most, block.matrix_bytes))


def _panels(block: BlockFacts, precision: Precision) -> int:
    """The larger of both ways to take the axes of its experts."""
    return sum(
        max(_packed(shape, precision) for shape in (matrix, (matrix[0], matrix[2], matrix[1])))
        for matrix in block.matrices
    )


def _golden_bytes(facts: Facts, tokens: int) -> int:
    """Golden tensors of the MoE layers, and of as many tokens as there are experts to visit."""
    layers = sum(
        _HIDDEN_BYTES * block.hidden_size + _LOGIT_BYTES * block.experts + _ROUTING_BYTES
        for block in facts.blocks
    )
    visits = sum(block.experts * (4 + 4 + 8) * block.hidden_size for block in facts.blocks)
    return tokens * layers + visits


def _lazily(facts: Facts, precision: Precision, dense: Precision) -> Range:
    """Of a model that says what it is made of, and what golden tensors are recorded on."""
    experts = sum(math.prod(shape) for block in facts.blocks for shape in block.matrices)
    products = sum(math.prod(shape) for shape in facts.dense)
    others = facts.elements - experts - products + (facts.tied if _BITS[dense.format] < 32 else 0)
    weights = (
        sum(_panels(block, precision) for block in facts.blocks)
        + sum(_packed((1, *shape), dense) for shape in facts.dense)
        + 4 * others
        + _PAGE // 2 * facts.tensors
    )
    graphs = _LAZY_GRAPH_BYTES + _LAZY_LAYER_BYTES * len(facts.blocks)
    golden = 0
    if facts.golden is not None:
        through = facts.golden
        golden = through.input_bytes + _OUTPUT_BYTES * through.outputs
        golden += _golden_bytes(facts, through.tokens)
    return Range.around(weights + graphs + golden, _LAZY_ERROR)


def _packed(shape: tuple[int, int, int], precision: Precision) -> int:
    return packed_size(
        shape, precision.format, block_size=precision.block_size, zeros=precision.zeros
    )
