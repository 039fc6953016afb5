"""Faults planted in the PTX that ships are caught by the problems that it solves."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tools.ptx.build import build_text

from .ptx_driver import DriverError
from .ptx_kernels import CAPABILITY, FOLDER, Device, device, excess
from .ptx_launcher import LauncherError
from .ptx_problems import all_cases

__all__ = ["device"]  # a fixture

CASES = {str(case): case for case in all_cases()}
NUMBERS = "numbers"
BOUNDS = "outside of every buffer|guard|overwrites"
UNKNOWN = "nobody has written|never written"
LATE = "may not have written yet|nobody has written|no barrier in between|still to write"


def change(pattern: str, to: str, number: int = 0) -> Callable[[str], str]:
    """The text with one of the places that match changed."""

    def changed(text: str) -> str:
        place = list(re.finditer(pattern, text))[number]
        return text[: place.start()] + place.expand(to) + text[place.end() :]

    return changed


def gemm(stored: str, tile: str, kind: str = "gated") -> str:
    block = {"bf16": 0, "int8row": 0, "int8": 32, "int4": 32}[stored]
    return f"Experts-wide-{kind}-{stored.removesuffix('row')}-block{block}-rows-bf16-{tile}"


WAIT = r"cp\.async\.wait_group\s+%d;"
LATE_BY_ONE = "cp.async.wait_group %d;"
A_SWAPPED = (r"(mma\S+ \{[^}]*\}, \{ )(%r\d+), (%r\d+)", r"\1\3, \2")
B_SWAPPED = (r"(mma\S+ \{[^}]*\}, \{[^}]*\}, \{ )(%r\d+), (%r\d+)", r"\1\3, \2")
UNMASKED = (r"@%p\d+ (st\.global)", r"\1")
ONE_MORE = (r"setp\.lt\.s32", "setp.le.s32")

# Kernel, problem, fault, and what finds it.
FAULTS: dict[str, tuple[str, str, Callable[[str], str], str]] = {
    "ldmatrix-next-row": (
        "gemm_gated_bf16_bf16_m64", gemm("bf16", "m64"),
        change(r"(ldmatrix[^\[]*\[%r\d+)(?:\+(\d+))?\]", r"\1+16]", 1), NUMBERS + "|" + LATE,
    ),
    "wait-too-late": (
        "gemm_gated_bf16_bf16_m64", gemm("bf16", "m64"),
        change(WAIT % 6, LATE_BY_ONE % 7), LATE,
    ),
    "wait-too-late-int4": (
        "gemm_plain_int4_bf16_m16", gemm("int4", "m16", "linear"),
        change(WAIT % 6, LATE_BY_ONE % 7), LATE,
    ),
    "mma-swapped-a": (
        "gemm_gated_bf16_bf16_m16", gemm("bf16", "m16"), change(*A_SWAPPED, 1), NUMBERS,
    ),
    "mma-swapped-b": (
        "gemm_plain_int8_bf16_m64", gemm("int8", "m64", "linear"), change(*B_SWAPPED), NUMBERS,
    ),
    "mma-swapped-b-int4": (
        "gemm_gated_int4_bf16_m16", gemm("int4", "m16"), change(*B_SWAPPED, -1), NUMBERS,
    ),
    "store-unmasked": (
        "gemm_gated_bf16_bf16_m64", gemm("bf16", "m64"), change(*UNMASKED), BOUNDS,
    ),
    "store-unmasked-gemv": (
        "gemv_gated_int4_bf16_any", "Experts-odd-int4-block32-rows-bf16", change(*UNMASKED), BOUNDS,
    ),
    "store-unmasked-combine": (
        "combine_fp32_fp32", "Combine-random", change(*UNMASKED), BOUNDS,
    ),
    "bound-off-by-one-combine": (
        "combine_fp32_fp32", "Combine-random", change(*ONE_MORE, 3), BOUNDS,
    ),
    "bound-off-by-one-count": (
        "dispatch_count", "Dispatch-random", change(*ONE_MORE, 1), BOUNDS + "|" + NUMBERS,
    ),
    "scan-one-lane-short": (
        "dispatch_scatter", "Dispatch-random",
        change(r"(shfl\.sync\.up\.b32\s+%r\d+, %r\d+, )1,", r"\g<1>2,"),
        NUMBERS + "|overwrites|" + UNKNOWN,
    ),
    "reduction-one-step-short": (
        "router_e32", "Router-one-group-of-nine",
        change(r"(shfl\.sync\.bfly\.b32\s+%r\d+, %r\d+, )16,", r"\g<1>8,", 0), NUMBERS,
    ),
    "barrier-dropped": (
        "gemm_plain_bf16_bf16_m16", gemm("bf16", "m16"), change(r"bar\.sync\s+0;", "", 0), LATE,
    ),
    "barrier-dropped-after-reading": (
        "gemm_plain_int4_bf16_m16", gemm("int4", "m16", "linear"),
        change(r"bar\.sync\s+0;", "", 2), LATE,
    ),
    "nibbles-shifted-by-3": (
        "gemm_plain_int4_bf16_m16", gemm("int4", "m16", "linear"),
        change(r"(shr\.b32\s+four, %r\d+, )4;", r"\g<1>3;"), NUMBERS,
    ),
}  # fmt: skip


@pytest.mark.skipif(CAPABILITY != "80", reason="the faults are planted in PTX of sm_80")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_shipped_kernel_is_caught(name: str, device: Device) -> None:
    kernel, case, plant, words = FAULTS[name]
    text = (FOLDER / f"{kernel}.ptx").read_text()
    faulty = plant(text)
    assert faulty != text
    before = device.driver.launches_of(kernel)
    library, original = build_text(faulty, f"{kernel}.ptx"), device.folder / f"{kernel}.so"
    said = "nothing"
    with device.driver.replaced(kernel, library, original):
        try:
            if excess(CASES[case], device.solve(CASES[case])) > 1:
                said = NUMBERS
        except (DriverError, LauncherError) as error:
            said = str(error)
        except AssertionError:
            said = NUMBERS  # integers or NaN that differ
    assert device.driver.launches_of(kernel) > before, "the problem does not launch it"
    assert re.search(words, said), said
