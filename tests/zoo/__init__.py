"""Mixture-of-experts blocks the way people write them, and what must be recognised in each.

Every block is plain PyTorch and knows nothing of moe_export.  ``CASES`` says what each one is;
``test_zoo.py`` proves that it says so truly, token by token.  ``REGISTERED`` holds blocks that
nobody is expected to recognise without their author's help.
"""

from .case import ZooCase, canonical_experts, canonical_router
from .look_alikes import LOOK_ALIKES
from .recognised import RECOGNISED, REGISTERED

CASES: tuple[ZooCase, ...] = RECOGNISED + LOOK_ALIKES

__all__ = [
    "CASES",
    "LOOK_ALIKES",
    "RECOGNISED",
    "REGISTERED",
    "ZooCase",
    "canonical_experts",
    "canonical_router",
]
