"""A first look at the eager model: its outputs, what it reads, and whether it repeats itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten_with_path, tree_leaves

from moe_export.capture.watch import side_by_side
from moe_export.capture.weights import source_tensors
from moe_export.errors import CaptureError
from moe_export.forms import MarkedModel


@dataclass(frozen=True)
class Look:
    """What two runs on the example show."""

    names: list[str]
    """Of the outputs: dictionary keys and fields where there are any, else ``output``."""

    read: set[str]
    """The source tensors that a run reads."""


def look_at(model: MarkedModel) -> Look:
    """Run the eager model twice on its example.

    Raises ``CaptureError`` where the runs differ, for nothing could be validated against such a
    model, and where it returns what is no tensor.
    """
    module, inputs = model.loaded.module, model.loaded.example_inputs
    reads = _Reads(source_tensors(module))

    def run() -> Any:
        with torch.no_grad():
            return module(**inputs)

    def run_read() -> Any:
        with reads:
            return run()

    first, second = side_by_side(module, [run_read, run])
    _require_equal(model, first, second)
    return Look(_names(module, first), reads.names)


class _Reads(TorchDispatchMode):
    """Which tensors of a module a run reads."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._memory: dict[int, list[str]] = {}
        for name, tensor in tensors.items():
            self._memory.setdefault(tensor.untyped_storage()._cdata, []).append(name)
        self.names: set[str] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self.names.update(self._memory.get(leaf.untyped_storage()._cdata, ()))
        return func(*args, **(kwargs or {}))


def _require_equal(model: MarkedModel, first: Any, second: Any) -> None:
    for one, other in zip(tree_leaves(first), tree_leaves(second), strict=True):
        if isinstance(one, Tensor) and not torch.equal(one.nan_to_num(), other.nan_to_num()):
            noisy = [b for b in model.blocks if b.status == "unfused"]
            raise CaptureError(
                "two runs of the model on the same inputs differ, in eval mode"
                + (f": {noisy[0].reason}" if noisy else ""),
                where=noisy[0].path if noisy else type(model.loaded.module).__name__,
                hint="remove what draws random numbers from forward() in eval mode",
            )


def _names(module: nn.Module, made: Any) -> list[str]:
    """Names for the outputs: dictionary keys and fields where there are any, else ``output``."""
    leaves, _ = tree_flatten_with_path(made)
    tensors = [(path, leaf) for path, leaf in leaves if leaf is not None]
    for path, leaf in tensors:
        if not isinstance(leaf, Tensor):
            raise CaptureError(
                f"the model returns a {type(leaf).__name__} beside its tensors",
                where=f"{type(module).__name__}, output {_words(path) or '0'}",
                hint="return tensors only (in a tuple, a dict or a named tuple)",
            )
    if len(tensors) == 1 and not _words(tensors[0][0]).strip("0123456789_"):
        return ["output"]
    words = [_words(path) for path, _ in tensors]
    return [f"output_{word}" if word[:1].isdigit() else word for word in words]


def _words(path: tuple[object, ...]) -> str:
    parts = (getattr(p, "key", getattr(p, "name", getattr(p, "idx", ""))) for p in path)
    return "_".join(str(part) for part in parts)
