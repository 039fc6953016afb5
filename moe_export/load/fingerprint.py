"""The identity of a model: SHA-256 over its tensors, wherever their bytes are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch

from moe_export.load.build import named_tensors, same_memory
from moe_export.load.reader import MappedTensor


def fingerprint(module: torch.nn.Module, mapped: Mapping[str, MappedTensor]) -> str:
    """SHA-256 over name, dtype, shape and bytes of every parameter and buffer, sorted by name.

    The same for equal models however they were loaded.  ``mapped`` holds tensors whose bytes have
    been hashed already, from the file; they are not read again unless something replaced them or
    wrote to them since.
    """
    whole = hashlib.sha256()
    for name, tensor in sorted(named_tensors(module), key=lambda item: item[0]):
        known = mapped.get(name)
        untouched = known and same_memory(known.tensor, tensor) and tensor._version == 0
        digest = known.digest if known and untouched else _digest(tensor)
        facts = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), digest]
        whole.update(json.dumps(facts).encode() + b"\n")
    return whole.hexdigest()


def _digest(tensor: torch.Tensor) -> str:
    flat = tensor.detach().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()
