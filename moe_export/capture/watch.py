"""Run the eager model, or a twin of it, and see what its mixture-of-experts layers see."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from moe_export.errors import CaptureError
from moe_export.forms import OWN_NUMBERS, BlockRecord, MarkedModel, MoELayer, Pass
from moe_export.lazy import is_lazy, real, together, twin_of
from moe_export.moe.layer import LayerSpec
from moe_export.moe.quantize import Precision

Array = npt.NDArray[Any]
Inputs = Mapping[str, Tensor]
Run = TypeVar("Run")

# What running a model may raise for sizes or values that it does not take.
REFUSALS = (RuntimeError, ValueError, IndexError)


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """What a model is rounded to: its experts, and matrices of other products by name."""

    experts: Precision = OWN_NUMBERS
    dense: Precision = OWN_NUMBERS
    dense_names: tuple[str, ...] = ()

    @property
    def is_none(self) -> bool:
        """Whether the model keeps its own numbers."""
        return self.experts == OWN_NUMBERS and not self.dense_names

    @property
    def rounds_rows(self) -> bool:
        """Whether rows are rounded before they meet a matrix."""
        used = (self.experts, *(self.dense for _ in self.dense_names[:1]))
        return any(precision.row_format != "f32" for precision in used)


def with_layers(model: MarkedModel, dtype: torch.dtype, rounding: Rounding) -> nn.Module:
    """The eager model, rounded, with each proven block as a layer that can replay.

    In float32 it shares all other tensors with the eager model; in another dtype it is a copy.
    """
    module = model.loaded.module
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    rounded = {
        id(tensors[name]): nn.Parameter(
            model.dense_weight(name, rounding.dense), requires_grad=False
        )
        for name in rounding.dense_names
    }
    twin = twin_of(module, None if dtype is torch.float32 else dtype, rounded)
    for block in model.proven:
        part = twin.get_submodule(block.path)
        layer = model.real_layer(block.path, part, dtype, rounding.experts)
        if not isinstance(layer, nn.Module):
            raise TypeError(f"the layer at {block.path!r} is not a module")
        if not block.path:
            return layer
        twin.set_submodule(block.path, layer)
    return twin


class _Passing(nn.Module):
    """A proven block as ops, built when it runs and forgotten: it holds no weights.

    For one thread.  It can replay, and tells what it saw, as a ``MoELayer`` does.
    """

    replayed: Callable[[], Mapping[str, Tensor]] | None = None
    edge_shift: float = 0.0

    def __init__(self, build: Callable[[], MoELayer]) -> None:
        super().__init__()
        self._build = build
        self.seen: dict[str, Tensor] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        layer = self._build()
        layer.replayed = self.replayed
        made = layer(*args, **kwargs)
        self.seen = dict(layer.seen)
        return made


def rewritten_model(model: MarkedModel) -> nn.Module:
    """The eager model in its own numbers with each proven block as ops, for one run at a time.

    It shares all tensors with the eager model and has the stacked ones of one block while that
    runs.
    """
    module = model.loaded.module
    twin = twin_of(module)
    for block in model.proven:
        source = module.get_submodule(block.path)
        build = partial(model.real_layer, block.path, source, torch.float32, OWN_NUMBERS)
        if not block.path:
            return _Passing(build)
        twin.set_submodule(block.path, _Passing(build))
    return twin


def layer_at(module: nn.Module, path: str) -> MoELayer:
    """The layer that ``with_layers`` put there."""
    return cast(MoELayer, module.get_submodule(path))


def layer_spec(block: BlockRecord) -> LayerSpec:
    """What a proven block is."""
    if block.layer is None:
        raise AssertionError(f"proven block {block.path!r} has no layer")
    return block.layer


def run_watched(
    module: nn.Module,
    inputs: Inputs,
    paths: list[str],
    meet: Callable[[Pass, Tensor], None] = lambda each, x: None,
) -> tuple[list[Tensor], dict[Pass, tuple[Tensor, Tensor]]]:
    """The module's outputs, and what went in and out of each block in each pass over it.

    ``meet`` hears of each block's input before the block runs.  Raises ``CaptureError`` where the
    module refuses the inputs.
    """
    entered: dict[Pass, Tensor] = {}
    calls: dict[Pass, tuple[Tensor, Tensor]] = {}
    passes: Counter[str] = Counter()
    mine = threading.get_ident()  # others may run the same module

    def before(path: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            if threading.get_ident() == mine:
                passes[path] += 1
                each = Pass(path, passes[path])
                (x,) = tensors_in((args, kwargs))
                entered[each] = x.clone()
                meet(each, entered[each])

        return hook

    def behind(path: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if threading.get_ident() == mine:
                each = Pass(path, passes[path])
                x = entered[each]
                rows = x.shape[:-1].numel()
                fits = (t for t in tensors_in(output) if t.dim() > 1)
                y = next(t for t in fits if t.shape[:-1].numel() == rows)
                calls[each] = (x, y.clone())

        return hook

    handles = []
    try:
        for path in paths:
            block = module.get_submodule(path)
            handles.append(block.register_forward_pre_hook(before(path), with_kwargs=True))
            handles.append(block.register_forward_hook(behind(path), with_kwargs=True))
        with torch.no_grad():
            return tensors_in(module(**inputs)), calls
    except REFUSALS as error:
        sizes = {key: list(x.shape) for key, x in inputs.items()}
        raise CaptureError(
            f"the eager model refuses sizes that its graph would allow: {error}",
            where=f"inputs of shape {sizes}",
            hint="pass dynamic_shapes with the axes that really vary",
        ) from error
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def seen_in(module: nn.Module, paths: list[str]) -> Iterator[dict[Pass, dict[str, Tensor]]]:
    """While a model of layers runs in this thread: what each layer sees, pass by pass."""
    seen: dict[Pass, dict[str, Tensor]] = {}
    passes: Counter[str] = Counter()
    mine = threading.get_ident()  # others may run the same module

    def behind(path: str) -> Any:
        def hook(layer: Any, args: Any, output: Any) -> None:
            if threading.get_ident() == mine:
                passes[path] += 1
                seen[Pass(path, passes[path])] = dict(layer.seen)

        return hook

    handles = [module.get_submodule(p).register_forward_hook(behind(p)) for p in paths]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def side_by_side(module: nn.Module, runs: Sequence[Callable[[], Run]]) -> list[Run]:
    """What the runs of a model return: beside each other where its weights are read from files.

    A model in memory gains nothing by that, and its code may not expect it: one after the other.
    """
    if is_lazy(*module.parameters(), *module.buffers()):
        return together(runs)
    return [run() for run in runs]


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors of what a module takes or returns, in order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def array_of(tensor: Tensor) -> Array:
    """A NumPy copy; half precision is widened, which loses nothing."""
    if tensor.is_floating_point() and tensor.dtype is not torch.float64:
        tensor = tensor.float()
    return np.array(real(tensor.detach()).numpy(), copy=True)
