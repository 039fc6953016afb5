"""Single instructions over one warp: many of them in one kernel, which compiles once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tools.ptx.device import InOut, Input, Module

Array = npt.NDArray[Any]

LANES = 32
LETTERS = {"8": "b", "16": "h", "32": "r", "64": "d"}
LOADS = {16: "ld.global.b16", 32: "ld.global.b32", 64: "ld.global.b64"}


@dataclass(frozen=True)
class Instruction:
    """``text`` has {d} for the result and {a}, {b}, {c} for operands, each of so many bits."""

    text: str
    result: int
    operands: Sequence[Array]

    @property
    def types(self) -> list[int]:
        return [8 * array.itemsize for array in self.operands]


def run(instructions: Sequence[Instruction], file: str) -> list[Array]:
    """The results of each, as unsigned integers of their width."""
    count = max(len(i.operands) for i in instructions)
    inputs = np.zeros((len(instructions), count, LANES), np.uint64)
    for number, instruction in enumerate(instructions):
        for at, array in enumerate(instruction.operands):
            inputs[number, at] = array.view(f"u{array.itemsize}")
    results = np.zeros((len(instructions), LANES), np.uint64)
    module = Module.of_text(_kernel(instructions, count), file)
    module.launch("ones", [Input(inputs), InOut(results)], grid=[1], threads=LANES)
    return [
        row.astype(f"u{instruction.result // 8}")
        for row, instruction in zip(results, instructions, strict=True)
    ]


def _kernel(instructions: Sequence[Instruction], count: int) -> str:
    lines = []
    for number, instruction in enumerate(instructions):
        names = {}
        lines.append("{")
        for at, bits in enumerate(instruction.types):
            name, offset = f"%x{at}", 8 * LANES * (number * count + at)
            lines.append(f".reg .b{bits} {name};")
            lines.append(f"{LOADS[bits]} {name}, [%rd1+{offset}];")
            names["abcde"[at]] = name
        lines.append(f".reg .b{instruction.result} %y;")
        lines.append(instruction.text.format(d="%y", **names))
        offset = 8 * LANES * number
        lines.append(f"st.global.b{instruction.result} [%rd2+{offset}], %y;")
        lines.append("}")
    return "\n".join(
        [
            ".version 8.0\n.target sm_80\n.address_size 64",
            ".visible .entry ones(.param .u64 inputs, .param .u64 results)",
            ".reqntid 32",
            "{",
            ".reg .pred %p<4>; .reg .b16 %h<8>; .reg .b32 %r<8>; .reg .b64 %rd<8>;",
            "ld.param.b64 %rd1, [inputs];",
            "ld.param.b64 %rd2, [results];",
            "mov.u32 %r0, %tid.x;",
            "mul.wide.u32 %rd3, %r0, 8;",
            "add.s64 %rd1, %rd1, %rd3;",
            "add.s64 %rd2, %rd2, %rd3;",
            *lines,
            "ret;",
            "}",
        ]
    )
