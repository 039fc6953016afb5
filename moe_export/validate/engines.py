"""Engines beside the eager model: each golden case on the GPU that is here, outputs compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from moe_export.errors import MissingEnvironmentError, MoeExportError, UnsafeInputError
from moe_export.forms import Golden, TensorParity
from moe_export.runtime.engine import EngineSession
from moe_export.validate.tensors import compare

if TYPE_CHECKING:
    from moe_export.runtime.bundle import Bundle


def validate_engines(bundle: Bundle, golden: Golden) -> tuple[list[TensorParity], dict[str, str]]:
    """What engines made of the golden inputs, and which of them were not run, with the reason.

    An engine shows its outputs and not its routing: where a token falls to another expert within
    the noise its outputs are beyond their tolerance.
    """
    tensors: list[TensorParity] = []
    not_run: dict[str, str] = {}
    for component in dict.fromkeys(engine.component for engine in bundle.manifest.engines):
        try:
            session = EngineSession(bundle, component=component)
        except (MissingEnvironmentError, UnsafeInputError) as error:
            not_run[f"engine of {component}"] = error.message
            continue
        with session:
            tensors += _compared(session, component, golden)
    return tensors, not_run


def _compared(session: EngineSession, component: str, golden: Golden) -> Iterator[TensorParity]:
    for case in golden.cases:
        if case.component != component:
            continue
        try:
            made = session.run(case.inputs)
        except MoeExportError as error:
            error.where = f"engine of {component}, case {case.name!r}, {error.where}"
            raise
        for name, eager in case.outputs.items():
            yield compare(
                case.name,
                f"engine: {name}",
                "output",
                bundle=made[name],
                eager=eager,
                reference=case.outputs_reference[name],
                edge_error=float(case.outputs_edge_error[name]),
            )
