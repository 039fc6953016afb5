"""Find E alike experts in a module: lists of alike children, or parameters stacked on one axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moe_export.moe.recipe import Leading, Recipe, Reshaped, Source, Stacked
from moe_export.rewrite.rows import tensor_named


@dataclass(frozen=True)
class ExpertGroup:
    """The weights of E experts, one recipe for each role-less slot.

    ``matrices`` are ``[E, rows, columns]`` and ``vectors`` ``[E, rows]``, in definition order.
    """

    num_experts: int
    matrices: tuple[Recipe, ...]
    vectors: tuple[Recipe, ...]

    def reads(self) -> set[str]:
        """Names of the tensors that belong to the experts."""
        return {name for slot in self.matrices + self.vectors for name in slot.sources()}


@dataclass(frozen=True)
class UnevenExperts:
    """A list of modules that look like experts and differ: never rewritten."""

    count: int
    reason: str


def expert_groups(module: nn.Module) -> list[ExpertGroup | UnevenExperts]:
    """All ways to see E >= 2 experts in ``module``, the likeliest first."""
    by_count: dict[int, list[Recipe]] = {}
    uneven: list[ExpertGroup | UnevenExperts] = []
    inside_lists: set[str] = set()
    for path, children in _lists(module):
        slots = _slots_of_list(path, children)
        if isinstance(slots, UnevenExperts):
            uneven.append(slots)
            continue
        by_count.setdefault(len(children), []).extend(slots)
        inside_lists.update(name for slot in slots for name in slot.sources())
    for name, tensor in module.named_parameters():
        if name not in inside_lists and tensor.dim() >= 2 and tensor.shape[0] >= 2:
            by_count.setdefault(tensor.shape[0], []).append(_source(name, tensor))
    groups = [_group(count, slots) for count, slots in by_count.items()]
    found = [group for group in groups if group.matrices]
    return [*_cut_groups(found), *found, *uneven, *_flat_groups(module)]


def _cut_groups(groups: Sequence[ExpertGroup]) -> Iterator[ExpertGroup]:
    """Experts some of whose matrices have rows for more, which nobody reads."""
    for group in groups:
        taller = [
            Leading(slot, group.num_experts)
            for other in groups
            if other.num_experts > group.num_experts
            for slot in other.matrices
        ]
        if 1 <= len(taller) <= 2:
            yield ExpertGroup(group.num_experts, (*taller, *group.matrices), group.vectors)


def _flat_groups(module: nn.Module) -> list[ExpertGroup | UnevenExperts]:
    """Experts whose rows lie one after the other in matrices ``[E * rows, columns]``.

    E is taken to be the height of a smaller matrix (the router's) that divides the height which
    at least two of the others share.
    """
    matrices = [(n, p) for n, p in module.named_parameters() if p.dim() == 2]
    groups: list[ExpertGroup | UnevenExperts] = []
    for count in dict.fromkeys(p.shape[0] for _, p in matrices if p.shape[0] > 1):
        tall = [(n, p) for n, p in matrices if p.shape[0] % count == 0 and p.shape[0] > count]
        if len(tall) in (2, 3) and len({p.shape[0] for _, p in tall}) == 1:
            slots = [
                Reshaped(_source(n, p), (count, p.shape[0] // count, p.shape[1])) for n, p in tall
            ]
            groups.append(ExpertGroup(count, tuple(slots), ()))
    return groups


def _group(count: int, slots: Sequence[Recipe]) -> ExpertGroup:
    matrices = tuple(slot for slot in slots if len(slot.shape) == 3 and 1 not in slot.shape[1:])
    vectors = [slot for slot in slots if len(slot.shape) == 2]
    for slot in slots:  # a bias kept as [E, 1, N] for broadcasting
        if len(slot.shape) == 3 and slot.shape[1] == 1:
            vectors.append(Reshaped(slot, (slot.shape[0], slot.shape[2])))
    return ExpertGroup(count, matrices, tuple(vectors))


def _lists(module: nn.Module) -> Iterator[tuple[str, Mapping[str, nn.Module | Tensor]]]:
    """Lists of at least two entries: by the path of what holds them, the entries by name."""
    for path, child in module.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(child, (nn.ParameterList, nn.ParameterDict)):
            tensors = dict(child.named_parameters(recurse=False))
            if len(tensors) >= 2:
                yield prefix, tensors
        elif isinstance(child, (nn.ModuleList, nn.ModuleDict)) and len(child) >= 2:
            yield prefix, dict(child.named_children())
        else:
            for numbered in _numbered(child):
                yield prefix, numbered


def _numbered(module: nn.Module) -> list[dict[str, nn.Module | Tensor]]:
    """Children named alike but for a number, ``expert0, expert1, …``, as one list each."""
    families: dict[tuple[str, type[nn.Module]], dict[str, nn.Module | Tensor]] = {}
    for name, child in module.named_children():
        stem = name.rstrip("0123456789")
        if stem not in ("", name):
            families.setdefault((stem, type(child)), {})[name] = child
    return [family for family in families.values() if len(family) >= 2]


def _slots_of_list(
    prefix: str, children: Mapping[str, nn.Module | Tensor]
) -> list[Recipe] | UnevenExperts:
    """Each parameter of the first entry, stacked over all entries."""
    tables = {name: _parameters(child) for name, child in children.items()}
    first_name = next(iter(tables))
    first = tables[first_name]
    for name, table in tables.items():
        if table.keys() != first.keys():
            return UnevenExperts(
                len(tables), f"experts {prefix}{first_name} and {prefix}{name} differ in structure"
            )
        for key, tensor in table.items():
            if tensor.shape != first[key].shape:
                return UnevenExperts(
                    len(tables),
                    f"experts differ in shape: {_join(prefix, name, key)} is "
                    f"{list(tensor.shape)} and {_join(prefix, first_name, key)} is "
                    f"{list(first[key].shape)}",
                )
    return [
        Stacked(tuple(_source(_join(prefix, name, key), tables[name][key]) for name in tables))
        for key in first
    ]


def _parameters(entry: nn.Module | Tensor) -> dict[str, Tensor]:
    return {"": entry} if isinstance(entry, Tensor) else dict(entry.named_parameters())


def _join(prefix: str, name: str, key: str) -> str:
    return f"{prefix}{name}.{key}" if key else f"{prefix}{name}"


def named_source(module: nn.Module, name: str) -> Source:
    """The recipe of one tensor of ``module`` as it is."""
    return _source(name, tensor_named(module, name))


def _source(name: str, tensor: Tensor) -> Source:
    return Source(name, tuple(tensor.shape), numpy_dtype(tensor.dtype))


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """The NumPy dtype of a torch dtype; bfloat16 is ``ml_dtypes.bfloat16``."""
    if dtype is torch.bfloat16:
        import ml_dtypes

        brain: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return brain
    return np.dtype(torch.empty(0, dtype=dtype).numpy().dtype)
