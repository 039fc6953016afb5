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
    device: str = "cpu",
    sms: Sequence[int | str] = (),
    max_batch: int | None = None,
    max_tokens: int | None = None,
    max_image_tokens: int | None = None,
    embed_plugins: bool = False,
) -> Bundle:
    """Export a model into a validated bundle at ``output`` and return it, opened.

    ``source`` is a checkpoint's path, ``"package.module:factory"``, or a module together with
    ``example_inputs``, tensors in the order of ``forward``'s parameters (or by their names).

    ``dynamic_shapes`` names the axes that vary, ``{"tokens": {0: "batch", 1: "sequence"}}``; by
    default every axis does that the model lets vary, batch and sequence must.

    ``target`` is ``ort``, ONNX Runtime with this project's kernels, ``standard``, any ONNX
    runtime, or ``trt-rtx`` or ``trt``, engines of TensorRT.  ``device`` is ``cpu`` or, for ``ort``,
    ``cuda``: ONNX Runtime's CUDA provider runs the MoE layers with this project's GPU kernels.

    ``precision`` is how experts store their weights and what rows are rounded to before they meet
    them: ``f32`` (the model's own numbers), ``bf16``, ``f16``, ``int8`` or ``int4``, with a block
    size as in ``int4:64``, zero points as in ``int4+zeros``, and other rows as in ``int4@bf16``.
    ``dense_precision`` says the same of all other products but a router's: attention, shared
    experts, the head.

    ``force`` replaces a bundle that already lies at ``output``.

    ``max_memory``, in bytes or as ``"4GiB"``, is how much memory the process may have in use, its
    own data and no pages of files; an export that needs more ends with ``MemoryBudgetError``.  It
    does so within a stage where ``export`` is called in the main thread, and else between stages.

    ``all_logits``, for the folder of a Transformers model: its decoder gives the logits of every
    token, ``[B, S, V]``, as scoring text takes them, and not of the last alone.

    ``sms`` are the compute capabilities that engines of ``trt-rtx`` are built for, ``89`` or
    ``"12.0"``; ``max_batch``, ``max_tokens`` (of a text with its cache) and ``max_image_tokens``
    (of all images of a run) are the sizes that engines run with at most, and ``embed_plugins``
    puts the plugin library into them.

    Raises a ``MoeExportError``; then nothing was written to ``output``, but for a bundle whose
    engines cannot be built on this machine: that is written without them.
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
        device=device,
        sms=sms,
        max_batch=max_batch,
        max_tokens=max_tokens,
        max_image_tokens=max_image_tokens,
        embed_plugins=embed_plugins,
    )
    from moe_export import pipeline  # after the spec has seen that PyTorch is here

    return pipeline.run(spec).bundle
