"""What an export will need, from the model's shapes alone: ``forward`` is never run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from moe_export.card import weight_bytes
from moe_export.forms import OWN_NUMBERS
from moe_export.moe.packing import packed_size
from moe_export.moe.quantize import Precision

if TYPE_CHECKING:
    import torch

    from moe_export.forms import LoadedModel
    from moe_export.moe.recipe import Recipe

# What follows was measured by tools/bench/plan_fit.py: twelve float32 transformers of 1 to 12 MoE
# blocks, 4 to 64 experts each, 0.4 to 500 MiB of weights, written as lists of modules and as
# stacked parameters; x86-64, PyTorch 2.13 for CPUs, one thread.
#
# Memory: the weights once, mapped.  Beside them Python, PyTorch, ONNX and what tracing leaves:
# 431 MiB.  For each weight 13 bytes: 8 in the float64 model that golden tensors are measured
# against, the rest its copy before it was widened.  For each weight of the largest block 14 bytes:
# the float64 copies that its proof compares.  A model left out of the fit was predicted to
# within -6 % and +8 %, which is rounded up to 10.
_BASE_BYTES = 431 * 2**20
_ELEMENT_BYTES = 13
_BLOCK_ELEMENT_BYTES = 14
_PEAK_ERROR = 0.10

# Processor time: starting, loading in a second process, and tracing something; tracing one block;
# one tensor; reading a weight in float64 some dozen times; and what each proof computes.  Models
# left out were predicted to within -39 % and +37 %, on a machine that others used meanwhile.
_BASE_SECONDS = 16.0
_BLOCK_SECONDS = 0.93
_TENSOR_SECONDS = 0.018
_ELEMENT_SECONDS = 1.5e-7
_VISIT_SECONDS = 1.1e-8
_TIME_LOW, _TIME_HIGH = 0.6, 1.7

# A model whose weights stay in their files.  Memory: Python, PyTorch, Transformers, ONNX and what
# tracing a small model leaves: 560 MiB; mapped pages that validation keeps, with what comes before
# they are given back: 410 MiB, or all weights; for each number of the largest tensor 5 bytes.
# Three qwen3_vl_moe exported in int8, of 4 layers and 1 MiB, 12 layers and 1.43e9 numbers, 16
# layers and 1.14e10, took 573, 1322 and 2963 MiB: within 3 %.
_LAZY_BASE_BYTES = 560 * 2**20
_LAZY_KEPT_BYTES = 410 * 2**20
_LAZY_LARGEST_ELEMENT_BYTES = 5
_LAZY_ERROR = 0.25
# Of both, what is no page of a file (a library, a mapped weight), with the process that looks at a
# checkpoint first: four checkpoints of 0.6 to 144 MiB were predicted to within -7 % and +4 %, four
# Transformers models of 0.4 to 129 MiB to within 0 and +9 %.  Too few for narrower ranges.
_OWN_BASE_BYTES = 325 * 2**20
_OWN_ELEMENT_BYTES = 9
_OWN_BLOCK_ELEMENT_BYTES = 18
_OWN_ERROR = 0.20
_LAZY_OWN_BASE_BYTES = 400 * 2**20
_LAZY_OWN_LARGEST_ELEMENT_BYTES = 5.5
# Processor time: starting, tracing and translating what is there once; a decoder layer traced; each
# number read in five passes, rounded, packed and written.  The same three took 35, 139 and 715
# seconds: within 7 %.
_LAZY_BASE_SECONDS = 30.0
_LAZY_BLOCK_SECONDS = 1.8
_LAZY_ELEMENT_SECONDS = 5.5e-8

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


_BITS = {"f32": 32, "bf16": 16, "f16": 16, "int8": 8, "int4": 4}


@dataclass(frozen=True, kw_only=True)
class BlockFacts:
    """A module that has the structure of a mixture of experts; nothing is proven about it."""

    path: str
    experts: int
    hidden_size: int
    elements: int
    """Numbers in its parameters and buffers."""

    matrices: tuple[tuple[int, int, int], ...] = ()
    """The experts' matrices, ``[E, rows, columns]`` or the other way round."""

    matrix_bytes: int = 0
    """Of those, as the model has them."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What can be said of a model without running it."""

    weight_bytes: int
    elements: int
    """Numbers in all parameters and buffers, each of which counts once."""

    tensors: int
    largest_tensor: int
    """Numbers in the largest of them."""

    is_lazy: bool
    """Whether the weights stay in their files while the model is exported."""

    blocks: tuple[BlockFacts, ...]
    tokens: int
    """Rows of the largest example input: batch times the next axis."""

    output_size: int
    """Rows of the last matrix, which is as a rule the head's."""

    @property
    def experts(self) -> int:
        """Experts of all blocks."""
        return sum(block.experts for block in self.blocks)

    @property
    def largest_block(self) -> int:
        """Elements of the largest block."""
        return max((block.elements for block in self.blocks), default=0)

    @property
    def visits(self) -> int:
        """What a proof computes, which visits every expert: each block's elements times experts."""
        return sum(block.experts * block.elements for block in self.blocks)


@dataclass(frozen=True, kw_only=True)
class Range:
    """What to expect: at least ``low``, at most ``high``."""

    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The cost of an export."""

    facts: Facts
    peak_bytes: Range
    """Largest resident memory of the process, mapped weights included."""

    own_bytes: Range
    """Of the same without pages of files, which is what ``--max-memory`` counts."""

    disk_bytes: Range
    """Of the bundle."""

    scratch_bytes: int
    """Of quantised weights in a file that goes when the export ends."""

    cpu_seconds: Range
    """Of processor time, on a core like the one that was measured."""


def plan(facts: Facts, precision: Precision = OWN_NUMBERS, dense: Precision = OWN_NUMBERS) -> Plan:
    """The cost of exporting a model of these sizes, with experts and other products rounded so."""
    return Plan(
        facts=facts,
        peak_bytes=_peak_bytes(facts),
        own_bytes=_own_bytes(facts),
        disk_bytes=_disk_bytes(facts, precision, dense),
        scratch_bytes=_scratch_bytes(facts, precision, dense),
        cpu_seconds=_cpu_seconds(facts),
    )


def _peak_bytes(facts: Facts) -> Range:
    if facts.is_lazy:
        kept = min(_LAZY_KEPT_BYTES, facts.weight_bytes)
        reading = _LAZY_LARGEST_ELEMENT_BYTES * facts.largest_tensor
        return _around(_LAZY_BASE_BYTES + kept + reading, _LAZY_ERROR)
    elements, in_a_block = facts.elements, facts.largest_block
    others = _ELEMENT_BYTES * elements + _BLOCK_ELEMENT_BYTES * in_a_block
    return _around(_BASE_BYTES + facts.weight_bytes + others, _PEAK_ERROR)


def _own_bytes(facts: Facts) -> Range:
    if facts.is_lazy:
        lazily = _LAZY_OWN_BASE_BYTES + _LAZY_OWN_LARGEST_ELEMENT_BYTES * facts.largest_tensor
        return _around(lazily, _LAZY_ERROR)
    elements, in_a_block = facts.elements, facts.largest_block
    others = _OWN_ELEMENT_BYTES * elements + _OWN_BLOCK_ELEMENT_BYTES * in_a_block
    return _around(_OWN_BASE_BYTES + others, _OWN_ERROR)


def _around(expected: float, error: float) -> Range:
    return Range(low=round(expected * (1 - error)), high=round(expected * (1 + error)))


def _scratch_bytes(facts: Facts, precision: Precision, dense: Precision) -> int:
    """Values alone; scales are a thirtieth of them at most.  int4 is kept as int8."""
    bytes_of = {"f32": 0, "bf16": 2, "f16": 2, "int8": 1, "int4": 1}
    experts = sum(math.prod(shape) for block in facts.blocks for shape in block.matrices)
    return bytes_of[precision.format] * experts + bytes_of[dense.format] * (
        facts.elements - experts
    )


def _disk_bytes(facts: Facts, precision: Precision, dense: Precision) -> Range:
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
    most = sum(
        max(
            packed_size(
                shape,
                precision.format,
                block_size=precision.block_size,
                zeros=precision.zeros,
            )
            for shape in (matrix, (matrix[0], matrix[2], matrix[1]))
        )
        for matrix in block.matrices
    )
    return Range(low=min(least, block.matrix_bytes), high=max(most, block.matrix_bytes))


def _golden_bytes(facts: Facts, tokens: int) -> int:
    """Golden tensors of the MoE layers, and of each expert visited by two tokens."""
    layers = sum(
        _HIDDEN_BYTES * block.hidden_size + _LOGIT_BYTES * block.experts + _ROUTING_BYTES
        for block in facts.blocks
    )
    visits = sum(2 * block.experts * (4 + 4 + 8) * block.hidden_size for block in facts.blocks)
    return tokens * layers + visits


def _cpu_seconds(facts: Facts) -> Range:
    if facts.is_lazy:
        lazily = (
            _LAZY_BASE_SECONDS
            + _LAZY_BLOCK_SECONDS * len(facts.blocks)
            + _LAZY_ELEMENT_SECONDS * facts.elements
        )
        return _around(lazily, _LAZY_ERROR)
    expected = (
        _BASE_SECONDS
        + _BLOCK_SECONDS * len(facts.blocks)
        + _TENSOR_SECONDS * facts.tensors
        + _ELEMENT_SECONDS * facts.elements
        + _VISIT_SECONDS * facts.visits
    )
    return Range(low=round(expected * _TIME_LOW), high=round(expected * _TIME_HIGH))


def facts_as_dict(facts: Facts) -> dict[str, Any]:
    """The facts for JSON."""
    return {**asdict(facts), "experts": facts.experts}


def facts(loaded: LoadedModel) -> Facts:
    """Sizes of a loaded model.  No weight is read."""
    from moe_export.lazy import is_lazy

    module = loaded.module
    matrices = [parameter for parameter in module.parameters() if parameter.dim() == 2]
    return Facts(
        weight_bytes=weight_bytes(module),
        elements=_elements(module),
        tensors=len([*module.parameters(), *module.buffers()]),
        largest_tensor=max((tensor.numel() for tensor in module.parameters()), default=0),
        is_lazy=is_lazy(*module.parameters()),
        blocks=tuple(_blocks(module)),
        tokens=max((math.prod(x.shape[:2]) for x in loaded.example_inputs.values()), default=0),
        output_size=matrices[-1].shape[0] if matrices else 0,
    )


def _blocks(module: torch.nn.Module) -> Iterator[BlockFacts]:
    """Modules that hold alike experts and a matrix that may route among them, none in another."""
    found: list[str] = []
    paths = dict(module.named_modules())
    for path in sorted(paths, key=lambda path: -path.count(".") - bool(path)):
        if any(not path or other.startswith(f"{path}.") for other in found):
            continue
        block = _block(path, paths[path])
        if block is not None:
            found.append(path)
            yield block


def _block(path: str, module: torch.nn.Module) -> BlockFacts | None:
    from moe_export.rewrite.groups import ExpertGroup, expert_groups

    for group in expert_groups(module):
        if not isinstance(group, ExpertGroup):
            continue
        experts = {name for slot in group.matrices for name in slot.sources()}
        routers = [
            tensor
            for name, tensor in module.named_parameters()
            if name not in experts and tensor.dim() == 2 and group.num_experts in tensor.shape
        ]
        # Attention has two matrices of one height beside two that are a multiple of it.
        if len(routers) == 1:
            return BlockFacts(
                path=path,
                experts=group.num_experts,
                hidden_size=routers[0].numel() // group.num_experts,
                elements=_elements(module),
                matrices=tuple(_shape(slot) for slot in group.matrices),
                matrix_bytes=sum(
                    math.prod(slot.shape) * slot.dtype.itemsize for slot in group.matrices
                ),
            )
    return None


def _shape(slot: Recipe) -> tuple[int, int, int]:
    experts, rows, columns = slot.shape
    return experts, rows, columns


def _elements(module: torch.nn.Module) -> int:
    return sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))
