"""The PTX that ships, launched by the launcher that ships, solves the suite of problems on a CPU.

Every access is checked on the way: see docs/ptx.md.
"""

from __future__ import annotations

import pytest

from .ptx_kernels import PTX, Device, device, excess
from .ptx_problems import all_cases

__all__ = ["device"]  # a fixture

CASES = {str(case): case for case in all_cases()}


@pytest.mark.parametrize("name", CASES)
def test_the_shipped_ptx_solves(name: str, device: Device) -> None:
    worst = excess(CASES[name], device.solve(CASES[name]))
    assert worst <= 1, f"{worst:.2f} times the bound"


def test_every_shipped_kernel_was_launched(device: Device) -> None:
    """By the problems above: all of them are solved again, so that this one can run alone."""
    for case in CASES.values():
        device.solve(case)
    counts = {ptx.stem: device.driver.launches_of(ptx.stem) for ptx in PTX}
    assert [name for name, count in counts.items() if not count] == []
