"""What an export will need, from the model's shapes alone: ``forward`` is never run."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass

from moe_export.forms import OWN_NUMBERS
from moe_export.moe.quantize import Precision
from moe_export.plan.disk import disk_bytes
from moe_export.plan.sizes import BlockFacts, Facts, Range, facts, facts_as_dict
from moe_export.plan.speed import core_slowness

__all__ = [
    "BlockFacts",
    "Facts",
    "Plan",
    "Range",
    "core_slowness",
    "facts",
    "facts_as_dict",
    "plan",
]

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

# PyTorch takes Triton in where it is installed: 78 MiB of a library's pages, by one export with it
# and one without.
_TRITON_BYTES = 78 * 2**20

# Processor time: starting, loading in a second process, and tracing something; tracing one block;
# one tensor; reading a weight in float64 some dozen times; and what each proof computes.  Of 7 to
# 37 seconds, ten were met within 15 %; models left out were predicted to within -55 % and +53 %.
_BASE_SECONDS = 6.8
_BLOCK_SECONDS = 0.065
_TENSOR_SECONDS = 0.001
_ELEMENT_SECONDS = 1.9e-8
_VISIT_SECONDS = 4.7e-9
_TIME_LOW, _TIME_HIGH = 0.6, 2.2

# A model whose weights stay in their files.  Memory: Python, PyTorch, Transformers, ONNX and what
# tracing a small model leaves: 560 MiB; mapped pages that validation keeps, with what comes before
# they are given back: 410 MiB, or all weights; for each number of the largest tensor 2.3 bytes.
# Three qwen3_vl_moe exported in int8, of 3 layers and 1 MiB, 12 layers and 1.43e9 numbers, 16
# layers and 1.11e10, took 584, 1058 to 1073 and 1754 to 1983 MiB, the second in float32 1194 to
# 1231: within 10 %.
_LAZY_BASE_BYTES = 560 * 2**20
_LAZY_KEPT_BYTES = 410 * 2**20
_LAZY_LARGEST_ELEMENT_BYTES = 2.3
_LAZY_ERROR = 0.25
# Of both, what is no page of a file (a library, a mapped weight), with the process that looks at a
# checkpoint first: four checkpoints of 0.6 to 144 MiB were predicted to within -7 % and +4 %; the
# exports above took 426, 853 and 1940 MiB and, in float32, 1021: within 15 %.  Too few for narrower
# ranges.
_OWN_BASE_BYTES = 325 * 2**20
_OWN_ELEMENT_BYTES = 9
_OWN_BLOCK_ELEMENT_BYTES = 18
_OWN_ERROR = 0.20
_LAZY_OWN_BASE_BYTES = 400 * 2**20
_LAZY_OWN_KEPT_BYTES, _LAZY_OWN_KEPT_SHARE = 256 * 2**20, 0.25
_LAZY_OWN_LARGEST_ELEMENT_BYTES = 3.4
# Processor time: starting; a tensor found, followed and translated, a block being as many as four;
# each number read in some passes, multiplied, rounded and packed; each byte written, digested and
# read again.  Four exports in int8, of 3, 6, 12 and 16 layers, up to 1.11e10 numbers, took 16, 40,
# 54 and 211 seconds, the third in float32 80: met within 1 %, and within 9 % where one of the first
# four is left out.  Two others: 6 layers in bf16 took 44 where 40 were foreseen, in int4 41 to 44,
# where 37 were.
_LAZY_BASE_SECONDS = 7.5
_LAZY_TENSOR_SECONDS, _LAZY_BLOCK_TENSORS = 0.0837, 4
_LAZY_ELEMENT_SECONDS = 7.56e-9
_LAZY_BYTE_SECONDS = 6.03e-9


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
    """Of processor time."""


def plan(
    facts: Facts,
    precision: Precision = OWN_NUMBERS,
    dense: Precision = OWN_NUMBERS,
    *,
    slowness: float = 1.0,
) -> Plan:
    """The cost of exporting a model of these sizes, with experts and other products rounded so.

    ``slowness`` is that of the cores, as ``core_slowness`` tells it; by default they are like the
    one on which exports were measured.
    """
    disk = disk_bytes(facts, precision, dense)
    return Plan(
        facts=facts,
        peak_bytes=_peak_bytes(facts),
        own_bytes=_own_bytes(facts),
        disk_bytes=disk,
        scratch_bytes=_scratch_bytes(facts, precision, dense),
        cpu_seconds=_cpu_seconds(facts, disk, slowness),
    )


def _peak_bytes(facts: Facts) -> Range:
    if facts.is_lazy:
        kept = min(_LAZY_KEPT_BYTES, facts.weight_bytes)
        reading = _LAZY_LARGEST_ELEMENT_BYTES * facts.largest_tensor
        return Range.around(_LAZY_BASE_BYTES + _triton_bytes() + kept + reading, _LAZY_ERROR)
    elements, in_a_block = facts.elements, facts.largest_block
    others = _ELEMENT_BYTES * elements + _BLOCK_ELEMENT_BYTES * in_a_block
    base = _BASE_BYTES + _triton_bytes()
    return Range.around(base + facts.weight_bytes + others, _PEAK_ERROR)


def _triton_bytes() -> int:
    return 0 if importlib.util.find_spec("triton") is None else _TRITON_BYTES


def _own_bytes(facts: Facts) -> Range:
    if facts.is_lazy:
        kept = min(_LAZY_OWN_KEPT_BYTES, _LAZY_OWN_KEPT_SHARE * facts.weight_bytes)
        reading = _LAZY_OWN_LARGEST_ELEMENT_BYTES * facts.largest_tensor
        return Range.around(_LAZY_OWN_BASE_BYTES + kept + reading, _LAZY_ERROR)
    elements, in_a_block = facts.elements, facts.largest_block
    others = _OWN_ELEMENT_BYTES * elements + _OWN_BLOCK_ELEMENT_BYTES * in_a_block
    return Range.around(_OWN_BASE_BYTES + others, _OWN_ERROR)


def _scratch_bytes(facts: Facts, precision: Precision, dense: Precision) -> int:
    """Values alone; scales are a thirtieth of them at most.  int4 is kept as int8."""
    bytes_of = {"f32": 0, "bf16": 2, "f16": 2, "int8": 1, "int4": 1}
    experts = sum(math.prod(shape) for block in facts.blocks for shape in block.matrices)
    return bytes_of[precision.format] * experts + bytes_of[dense.format] * (
        facts.elements - experts
    )


def _cpu_seconds(facts: Facts, disk: Range, slowness: float) -> Range:
    if facts.is_lazy:
        lazily = (
            _LAZY_BASE_SECONDS
            + _LAZY_TENSOR_SECONDS * (facts.outer_tensors + _LAZY_BLOCK_TENSORS * len(facts.blocks))
            + _LAZY_ELEMENT_SECONDS * facts.elements
            + _LAZY_BYTE_SECONDS * (disk.low + disk.high) / 2
        )
        return Range.around(slowness * lazily, _LAZY_ERROR)
    expected = slowness * (
        _BASE_SECONDS
        + _BLOCK_SECONDS * len(facts.blocks)
        + _TENSOR_SECONDS * facts.tensors
        + _ELEMENT_SECONDS * facts.elements
        + _VISIT_SECONDS * facts.visits
    )
    return Range(low=round(expected * _TIME_LOW), high=round(expected * _TIME_HIGH))
