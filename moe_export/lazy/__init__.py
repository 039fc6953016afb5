"""Tensors whose numbers are read when an operator needs them, and forgotten afterwards.

A model of such tensors runs as any other, in the memory of what it multiplies at a time.  Layout
and casts of them are put off (``layout``); a product reads its matrix in slices of rows
(``products``); whatever else meets one gets it whole.
"""

from moe_export.lazy import layout, products
from moe_export.lazy.cores import one_core_for_operators
from moe_export.lazy.layout import within
from moe_export.lazy.models import cores_for, in_memory, made_of, twin_of, without_numbers
from moe_export.lazy.products import grouped_product
from moe_export.lazy.tensors import LazyTensor, Reader, is_lazy, real, runs, slices
from moe_export.lazy.together import Promise, together

__all__ = [
    "LazyTensor",
    "Promise",
    "Reader",
    "cores_for",
    "grouped_product",
    "in_memory",
    "is_lazy",
    "layout",
    "made_of",
    "one_core_for_operators",
    "products",
    "real",
    "runs",
    "slices",
    "together",
    "twin_of",
    "within",
    "without_numbers",
]
