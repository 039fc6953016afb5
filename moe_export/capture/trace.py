"""Trace the marked model once and write it as one ONNX graph with symbolic axes."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from moe_export.capture.axes import (
    Axes,
    requested_shapes,
    symbolic_axes,
    tracing_inputs,
    varying_axes,
)
from moe_export.capture.looped import name_passes
from moe_export.capture.onnx_ops import translations
from moe_export.capture.repeats import once_each
from moe_export.capture.unfold import CannotUnfoldError, unfold
from moe_export.errors import CaptureError, RewriteError
from moe_export.forms import BlockRecord, MarkedModel
from moe_export.lazy import without_numbers

OPSET = 23

_OBJECTS_BETWEEN_COLLECTIONS = 20_000  # Python's own: some 700

# What torch.export and the ONNX exporter raise for a model they cannot take; all else is a bug.
_TRACING_ERRORS = (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError)


@dataclass(frozen=True)
class Trace:
    """The raw graph: unoptimised, parameters as torch tensors, probes still in it."""

    graph: ir.Model
    axes: Axes


def trace(model: MarkedModel, output_names: list[str]) -> Trace:
    """Export ``model.marked``; raises ``CaptureError``, or ``RewriteError`` if a block is why."""
    loaded = model.loaded
    inputs = tracing_inputs(loaded.example_inputs, loaded.dynamic_shapes)
    varying = varying_axes(loaded.module, inputs) if loaded.dynamic_shapes is None else set()
    shapes = requested_shapes(inputs, loaded.dynamic_shapes, varying)
    with _quiet(), _seldom_collected():
        module = without_numbers(model.marked)
        module.register_forward_pre_hook(_equates(loaded.dynamic_shapes), with_kwargs=True)
        with once_each(module) as repeats:
            program = _program(model, module, inputs, shapes)
        axes = symbolic_axes(_placeholders(program), loaded.dynamic_shapes)
        graph = _translated(model, program, inputs, output_names)
        try:
            unfold(graph, repeats)
        except CannotUnfoldError:
            program = _program(model, module, inputs, shapes)
            graph = _translated(model, program, inputs, output_names)
    name_passes(graph)
    return Trace(graph, axes)


def _equates(dynamic_shapes: Mapping[str, Mapping[int, str]] | None) -> Callable[..., None]:
    """A hook that tells the tracer at once which sizes are equal, or sums of others.

    It would find out layer by layer, and until then take layers for different ones.
    """

    def equate(_: nn.Module, args: Any, inputs: Mapping[str, Tensor]) -> None:
        sizes: dict[str, list[Any]] = {}
        for name, axes in (dynamic_shapes or {}).items():
            for axis, size in axes.items():
                sizes.setdefault(size, []).append(inputs[name].shape[axis])
        for size, found in sizes.items():
            for other in found[1:]:
                torch._check(other == found[0])
            terms = size.split("+")
            if len(terms) > 1 and sizes.keys() >= set(terms):
                torch._check(found[0] == sum(sizes[term][0] for term in terms))

    return equate


def _program(
    model: MarkedModel, module: nn.Module, inputs: Mapping[str, Tensor], shapes: Any
) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(
            module,
            (),
            kwargs=dict(inputs),
            dynamic_shapes=shapes,
            strict=False,
        )
    except _TRACING_ERRORS as error:
        raise _capture_error(model, error) from error


def _translated(
    model: MarkedModel,
    program: torch.export.ExportedProgram,
    inputs: Mapping[str, Tensor],
    output_names: list[str],
) -> ir.Model:
    try:
        made = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=output_names,
            custom_translation_table=translations(),
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise CaptureError(
            f"an operator has no ONNX form: {_last_line(_innermost(error))}",
            where=_name(model.marked),
        ) from error
    if made is None:
        raise AssertionError("torch.onnx.export returned no program")
    graph: ir.Model = made.model
    return graph


def _placeholders(program: torch.export.ExportedProgram) -> dict[str, Tensor]:
    names = set(program.graph_signature.user_inputs)
    return {node.name: node.meta["val"] for node in program.graph.nodes if node.name in names}


def _capture_error(model: MarkedModel, error: Exception) -> CaptureError | RewriteError:
    unfused = [block for block in model.blocks if block.status == "unfused"]
    if unfused and _is_data_dependent(error):
        return RewriteError(
            "a mixture-of-experts block could not be proven, and as it is written it cannot be "
            f"captured without baking in one batch's experts: {unfused[0].reason}",
            where=", ".join(_place(block) for block in unfused),
            hint="describe it with moe_export.register_block, see docs/extending.md",
        )
    return CaptureError(
        f"the model cannot be traced: {_last_line(error)}",
        where=_name(model.marked),
        hint="torch.export must be able to follow forward(); run again with -v for its own words",
    )


def _is_data_dependent(error: Exception) -> bool:
    words = f"{type(error).__name__} {error}"
    return "data-dependent" in words or "DataDependent" in words or "unbacked" in words


def _place(block: BlockRecord) -> str:
    return f"{block.path or 'the model'} ({block.kind})"


def _name(module: nn.Module) -> str:
    return type(module).__name__


def _innermost(error: BaseException) -> BaseException:
    """What was raised first: the exporter's own message is about its steps."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Look for unreachable objects less often: of the many that tracing makes few are."""
    before = gc.get_threshold()
    if before[0]:  # or whoever calls wants none at all
        gc.set_threshold(max(before[0], _OBJECTS_BETWEEN_COLLECTIONS), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes to itself: they are about packages and passes, not the model."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
