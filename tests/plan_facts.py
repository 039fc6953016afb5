"""Facts of a model that nobody built, to plan with: one block of large experts."""

from __future__ import annotations

from moe_export import plan

BLOCK = plan.BlockFacts(
    path="a",
    experts=8,
    hidden_size=64,
    elements=10**8,
    matrices=((8, 1024, 4096),),
    matrix_bytes=4 * 8 * 1024 * 4096,
)
FACTS = plan.Facts(
    weight_bytes=4 * 10**8,
    elements=10**8,
    tensors=50,
    largest_tensor=10**7,
    is_lazy=False,
    blocks=(BLOCK,),
    tokens=32,
    output_size=99,
)
