"""The identity of a model: SHA-256 over its tensors, wherever their bytes are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import torch

from moe_export.lazy import slices
from moe_export.load.build import named_tensors, same_memory
from moe_export.load.reader import MappedTensor

_PIECE_BYTES = 1 << 24


def fingerprint(module: torch.nn.Module, mapped: Mapping[str, MappedTensor]) -> str:
    """SHA-256 over name, dtype, shape and bytes of every parameter and buffer, sorted by name.

    The same for equal models however they were loaded.  ``mapped`` holds tensors whose bytes have
    been hashed already, from the file; they are not read again unless something replaced them or
    wrote to them since.
    """
    return _of_all(
        (name, tensor, _known_digest(tensor, mapped.get(name)))
        for name, tensor in named_tensors(module)
    )


def fingerprint_of_files(tensors: Mapping[str, torch.Tensor]) -> str:
    """The same over the tensors of a checkpoint, each of which is read once and in pieces."""
    return _of_all((name, tensor, None) for name, tensor in tensors.items())


def _known_digest(tensor: torch.Tensor, known: MappedTensor | None) -> str | None:
    untouched = known and same_memory(known.tensor, tensor) and tensor._version == 0
    return known.digest if known and untouched else None


def _of_all(tensors: Iterable[tuple[str, torch.Tensor, str | None]]) -> str:
    whole = hashlib.sha256()
    for name, tensor, known in sorted(tensors, key=lambda item: item[0]):
        digest = known or _digest(tensor)
        facts = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), digest]
        whole.update(json.dumps(facts).encode() + b"\n")
    return whole.hexdigest()


def _digest(tensor: torch.Tensor) -> str:
    made = hashlib.sha256()
    for rows in slices(tensor, _PIECE_BYTES):
        flat = rows.detach().contiguous().reshape(-1)
        made.update(flat.view(torch.uint8).numpy().data)
    return made.hexdigest()
