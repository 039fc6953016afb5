"""What can be said of a loaded model without running it: its sizes, in numbers and bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from moe_export.card import weight_bytes
from moe_export.moe.recipe import Leading

if TYPE_CHECKING:
    import torch

    from moe_export.forms import LoadedModel
    from moe_export.moe.recipe import Recipe


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
class Golden:
    """What goes through a model while golden tensors are recorded, in all cases together."""

    input_bytes: int
    outputs: int
    """Numbers."""

    tokens: int
    """That meet each MoE layer."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What can be said of a model without running it."""

    weight_bytes: int
    elements: int
    """Numbers in all parameters and buffers, each of which counts once."""

    tensors: int
    largest_tensor: int
    """Numbers in the largest of them."""

    outer_tensors: int = 0
    """Those of them that are in no block."""

    is_lazy: bool
    """Whether the weights stay in their files while the model is exported."""

    blocks: tuple[BlockFacts, ...]
    tokens: int
    """Rows of the largest example input: batch times the next axis."""

    output_size: int
    """Rows of the last matrix, which is as a rule the head's."""

    dense: tuple[tuple[int, int], ...] = ()
    """Of weights in files: the matrices ``[rows, columns]`` of products that no expert makes."""

    tied: int = 0
    """Numbers in those of them that are tables of embeddings as well."""

    golden: Golden | None = None
    """Of weights in files, whose sources say what golden tensors are recorded on."""

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

    @classmethod
    def around(cls, expected: float, error: float) -> Range:
        """What is expected, less or more by a share of it."""
        return cls(low=round(expected * (1 - error)), high=round(expected * (1 + error)))


def facts_as_dict(facts: Facts) -> dict[str, Any]:
    """The facts for JSON."""
    return {**asdict(facts), "experts": facts.experts}


def facts(loaded: LoadedModel) -> Facts:
    """Sizes of a loaded model.  No weight is read."""
    from moe_export.lazy import is_lazy

    module = loaded.module
    matrices = [parameter for parameter in module.parameters() if parameter.dim() == 2]
    lazy, blocks = is_lazy(*module.parameters()), tuple(_blocks(module))
    dense = _dense(module, blocks) if lazy else []
    return Facts(
        weight_bytes=weight_bytes(module),
        elements=_elements(module),
        tensors=len([*module.parameters(), *module.buffers()]),
        largest_tensor=max((tensor.numel() for tensor in module.parameters()), default=0),
        outer_tensors=sum(
            not any(name.startswith(f"{block.path}.") for block in blocks)
            for name, _ in (*module.named_parameters(), *module.named_buffers())
        ),
        is_lazy=lazy,
        blocks=blocks,
        tokens=max((math.prod(x.shape[:2]) for x in loaded.example_inputs.values()), default=0),
        output_size=matrices[-1].shape[0] if matrices else 0,
        dense=tuple(_pair(weight) for weight in dense),
        tied=sum(weight.numel() for weight in dense if id(weight) in _tables(module)),
        golden=_golden(loaded) if lazy else None,
    )


def _dense(module: torch.nn.Module, blocks: tuple[BlockFacts, ...]) -> list[torch.Tensor]:
    """The weights of linear layers, each once, without those that may be routers."""
    from torch import nn

    experts = {block.path: block.experts for block in blocks}
    found: dict[int, torch.Tensor] = {}
    for path, each in module.named_modules():
        block = next((b for b in experts if path.startswith(f"{b}.")), None)
        is_router = block is not None and getattr(each, "out_features", 0) == experts[block]
        if isinstance(each, nn.Linear) and not is_router:
            found[id(each.weight)] = each.weight
    return list(found.values())


def _tables(module: torch.nn.Module) -> set[int]:
    from torch import nn

    return {id(each.weight) for each in module.modules() if isinstance(each, nn.Embedding)}


def _pair(weight: torch.Tensor) -> tuple[int, int]:
    rows, columns = weight.shape
    return rows, columns


def _golden(loaded: LoadedModel) -> Golden:
    """Of a decoder and the parts beside it, on what their source has them run on.

    Outputs beside caches are few, but for embeddings; they are counted as long as those.
    """
    input_bytes = outputs = tokens = 0
    width = loaded.example_inputs["inputs_embeds"].shape[-1]
    for part in (loaded, *loaded.beside):
        shapes = part.dynamic_shapes or {}
        for inputs in (part.example_inputs, *part.cases.values()):
            input_bytes += sum(x.numel() * x.element_size() for x in inputs.values())
            rows = {
                size: inputs[name].shape[axis]
                for name, axes in shapes.items()
                for axis, size in axes.items()
            }
            new = rows.get("batch", 1) * rows.get("sequence", 0)
            if part is loaded:
                tokens += new
                outputs += sum(
                    _grown(inputs[name].shape, axes, rows)
                    for name, axes in shapes.items()
                    if name.startswith("past_")
                )
            else:
                outputs += new * width
    return Golden(input_bytes=input_bytes, outputs=outputs, tokens=tokens)


def _grown(shape: torch.Size, axes: Mapping[int, str], rows: Mapping[str, int]) -> int:
    """Numbers in a cache of this shape once the new tokens are in it."""
    sizes = list(shape)
    for axis, size in axes.items():
        sizes[axis] += rows["sequence"] if size == "past" else 0
    return math.prod(sizes)


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
        # A router that chooses among more has rows for more, as some matrices have.
        rows = [slot.inner.shape[0] for slot in group.matrices if isinstance(slot, Leading)]
        width = max([group.num_experts, *rows])
        tables = _tables(module)
        routers = [
            tensor
            for name, tensor in module.named_parameters()
            if name not in experts
            and tensor.dim() == 2
            and width in tensor.shape
            and id(tensor) not in tables
        ]
        # Attention has two matrices of one height beside two that are a multiple of it.
        if len(routers) == 1:
            return BlockFacts(
                path=path,
                experts=group.num_experts,
                hidden_size=routers[0].numel() // width,
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
