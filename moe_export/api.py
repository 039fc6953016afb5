"""The Python API of the workshop: ``moe_export.export``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moe_export.runtime.bundle import Bundle
from moe_export.spec import DEFAULT_TARGET, export_spec

if TYPE_CHECKING:
    import torch

StrPath = str | os.PathLike[str]


def export(
    source: StrPath | torch.nn.Module,
    *,
    output: StrPath,
    target: str = DEFAULT_TARGET,
    precision: str = "f32",
    dense_precision: str = "f32",
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    dynamic_shapes: Mapping[str, Mapping[int, str]] | None = None,
    python_path: Sequence[StrPath] = (),
    trust_pickle: bool = False,
    force: bool = False,
    max_memory: int | str | None = None,
    all_logits: bool = False,
) -> Bundle:
    """Export a model into a validated bundle at ``output`` and return it, opened.

    ``source`` is a checkpoint's path, ``"package.module:factory"``, or a module together with
    ``example_inputs``, tensors in the order of ``forward``'s parameters (or by their names).

    ``dynamic_shapes`` names the axes that vary, ``{"tokens": {0: "batch", 1: "sequence"}}``; by
    default every axis does that the model lets vary, batch and sequence must.

    ``target`` is ``ort``, ONNX Runtime with this project's kernels, or ``standard``, any ONNX
    runtime.  ``precision`` is how experts store their weights and what rows are rounded to before
    they meet them: ``f32`` (the model's own numbers), ``bf16``, ``f16``, ``int8`` or ``int4``, with
    a block size as in ``int4:64`` and zero points as in ``int4+zeros``.  ``dense_precision``
    says the same of all other products but a router's: attention, shared experts, the head.

    ``force`` replaces a bundle that already lies at ``output``.

    ``max_memory``, in bytes or as ``"4GiB"``, is how much memory the process may have in use, its
    own data and no pages of files; an export that needs more ends with ``MemoryBudgetError``.  It
    does so within a stage where ``export`` is called in the main thread, and else between stages.

    ``all_logits``, for the folder of a Transformers model: its decoder gives the logits of every
    token, ``[B, S, V]``, as scoring text takes them, and not of the last alone.

    Raises a ``MoeExportError``; then nothing was written to ``output``.
    """
    spec = export_spec(
        source,
        target=target,
        precision=precision,
        dense_precision=dense_precision,
        output=output,
        example_inputs=example_inputs,
        dynamic_shapes=dynamic_shapes,
        python_path=python_path,
        trust_pickle=trust_pickle,
        force=force,
        max_memory=max_memory,
        all_logits=all_logits,
    )
    from moe_export import pipeline  # after the spec has seen that PyTorch is here

    return pipeline.run(spec).bundle
