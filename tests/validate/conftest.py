from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from moe_export import Bundle
from moe_export.bundle import bundle as write_bundle
from moe_export.capture import capture
from moe_export.forms import OWN_NUMBERS, PortableModel, Report
from moe_export.load import load
from moe_export.lower import lower
from moe_export.moe.quantize import Precision
from moe_export.rewrite import rewrite
from moe_export.spec import export_spec
from moe_export.validate import validate

from . import patient
from .faults import Fault, in_functions, planted


@dataclass
class Line:
    """The patient's way to a bundle, to be repeated with something planted on it."""

    portable: PortableModel
    folder: Path

    def bundle(self, target: str, model: PortableModel | None = None) -> Bundle:
        return self._written(lower(model or self.portable, target))

    def report(self, fault: Fault, target: str) -> Report:
        """What validation says of a bundle with the fault in it."""
        model = self.portable
        if fault.plant is not None:
            model = planted(model, fault.plant)
        lowered = lower(model, target)
        if fault.in_function is not None:
            lowered = in_functions(lowered, *fault.in_function)
        return validate(self._written(lowered))

    def _written(self, lowered) -> Bundle:
        place = self.folder / str(len(list(self.folder.iterdir())))
        place.mkdir()
        return write_bundle(lowered, place)


def exported(model, example_inputs, precision: Precision = OWN_NUMBERS) -> PortableModel:
    """A model as it comes out of capture."""
    return capture(rewrite(load(export_spec(model, example_inputs=example_inputs))), precision)


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    portable = exported(patient.build(), patient.example_inputs())
    assert [block.status for block in portable.blocks] == ["proven", "proven"]
    return Line(portable, tmp_path_factory.mktemp("patients"))
