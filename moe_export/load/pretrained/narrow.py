"""Blocks of the same code with narrower experts, on which a proof is cheap.

How many rows the experts' matrices have says nothing about what the code computes, and most of a
model's weights are in those rows.  So a block is proven on one built from the same configuration
but for the size of its experts, with weights drawn at random.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from moe_export.errors import UsageError
from moe_export.load.pretrained.parts import text_model_of, with_blocks
from moe_export.load.usercode import run_user_code

# Rows of a narrow expert: the first that is no size of the block already, nor half or twice one.
_WIDTHS = (24, 40, 56, 72, 88)
# Below so many numbers the block itself is as cheap.
_LARGE = 1 << 20


class NarrowBlocks:
    """Narrow blocks of a model by path, ``None`` where the configuration does not give one."""

    def __init__(self, model: Any, part: nn.Module) -> None:
        self._model = model
        self._part = part
        self._config = model.config
        self._built: dict[tuple[str, ...], nn.Module | None] = {}

    def __call__(self, path: str) -> nn.Module | None:
        """The block at ``path`` with narrow experts, its weights small random numbers."""
        block = self._part.get_submodule(path)
        if sum(parameter.numel() for parameter in block.parameters()) < _LARGE:
            return None
        for names in self._names(block):
            model = self._model_without(names)
            found = None if model is None else _filled(model.get_submodule(path), block)
            if found is not None:
                return found
        return None

    def _names(self, block: nn.Module) -> list[tuple[str, ...]]:
        """Fields of the text configuration that may be the experts' size: each, and all of one."""
        sizes = {size for tensor in block.parameters() for size in tensor.shape[1:]}
        sizes |= {size // 2 for size in sizes}
        wanted = tuple(
            name
            for name, value in self._config.get_text_config().to_dict().items()
            if isinstance(value, int) and value in sizes
            if "inter" in name and name.endswith(("_size", "_dim"))
        )
        return [*((name,) for name in wanted), *([wanted] if len(wanted) > 1 else [])]

    def _model_without(self, names: tuple[str, ...]) -> nn.Module | None:
        """The model on no device, with these fields of its configuration small."""
        if names not in self._built:
            self._built[names] = self._build(names)
        return self._built[names]

    def _build(self, names: tuple[str, ...]) -> nn.Module | None:
        config = copy.deepcopy(self._config)
        text = config.get_text_config()
        taken = {value for value in text.to_dict().values() if isinstance(value, int)}
        width = next((w for w in _WIDTHS if not {w // 2, w, 2 * w} & taken), None)
        if width is None:
            return None
        for name in names:
            setattr(text, name, width)
        kind: Any = type(self._model)
        try:
            with torch.device("meta"):
                made: nn.Module = run_user_code(
                    lambda: kind._from_config(config, attn_implementation="eager"),
                    failure="no model of these sizes",
                    where=kind.__name__,
                )
        except UsageError:  # a size that the configuration objects to
            return None
        with_blocks(text_model_of(made), text.hidden_size)
        return made


def _filled(narrow: nn.Module, block: nn.Module) -> nn.Module | None:
    """The narrow block with numbers, if it is the block but for fewer of them."""
    before, after = dict(narrow.named_parameters()), dict(block.named_parameters())
    same = before.keys() == after.keys() and all(
        len(tensor.shape) == len(after[name].shape) for name, tensor in before.items()
    )
    count = sum(tensor.numel() for tensor in before.values())
    persistent = set(narrow.state_dict())
    if not same or 4 * count > sum(tensor.numel() for tensor in after.values()):
        return None
    if any(name not in persistent for name, _ in narrow.named_buffers()):
        return None  # what fills such a buffer is not known here
    made = copy.deepcopy(narrow).to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(22)
    for tensor in (*made.parameters(), *made.buffers()):
        if tensor.is_floating_point():
            spread = tensor.shape[-1] ** -0.5 if tensor.dim() > 1 else 0.5
            tensor.normal_(0, spread, generator=generator)
        else:
            tensor.zero_()
    return made
