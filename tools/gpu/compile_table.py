"""kernel_table.inc: what the launcher knows of the kernels, as C++ rows."""

from __future__ import annotations

from typing import Any

from compile_ptx import tiles

STORED = {
    "f32": "f32",
    "bf16": "bf16",
    "f16": "f16",
    "int8row": "int8_row",
    "int8": "int8",
    "int8wide": "int8_wide",
    "int4": "int4",
    "int4wide": "int4_wide",
}


def table(description: dict[str, Any]) -> str:
    """Rows of KERNEL (with a letter for each argument), MATRIX, RESOURCES for each SM, and choices.

    Arguments are those that the launcher passes, without the two of Triton's scratch memory.
    """
    lines = ["// Written by tools/gpu/compile_kernels.py."]
    kernels = description["kernels"]
    for name, kernel in kernels.items():
        letters = "".join(letter(a["type"]) for a in kernel["arguments"][:-2])
        lines.append(f'KERNEL({name}, "{letters}")')
    for name, kernel in kernels.items():
        if row := kernel["row"]:
            rows = "f32" if row["rows"] == "fp32" else "bf16"
            what = f"Stored::{STORED[row['stored']]}, RowFormat::{rows}"
            flags = f"{yes(row['gated'])}, {yes(row['vector'])}"
            lines.append(f"MATRIX({name}, {what}, {flags}, {row['bm']})")
    for name, kernel in kernels.items():
        for sm, needs in kernel["sm"].items():
            size = f"{needs['threads']}, {needs['shared_bytes']}, {needs.get('bn', 0)}"
            lines.append(f"RESOURCES({name}, {sm.rstrip('a')}, {size})")
    lines += [f"EXPERTS_OF_ROUTER({size}, router_e{size})" for size in sorted(tiles.ROUTER_SIZES)]
    lines += [f"ROWS_OF_TILE({mean}, {rows})" for mean, rows in sorted(tiles.ROWS_OF_TILE.items())]
    lines.append(f"LARGEST_ROWS({tiles.LARGEST_ROWS})")
    lines.append(f"DECODE({tiles.DECODE_TOKENS}, {tiles.DECODE_REREADS})")
    return "\n".join(lines) + "\n"


def letter(type_name: str) -> str:
    return "p" if type_name.startswith("*") else {"i32": "i", "fp32": "f"}[type_name]


def yes(value: object) -> str:
    return "true" if value else "false"
