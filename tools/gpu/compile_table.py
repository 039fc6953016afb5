"""kernel_table.inc: what the launcher knows of the kernels, as C++ rows."""

from __future__ import annotations

from typing import Any

STORED = {"f32": "f32", "bf16": "bf16", "f16": "f16", "int8row": "int8_row", "int8": "int8", "int4": "int4"}


def table(description: dict[str, Any]) -> str:
    """KERNEL(name, arguments) rows, then TILE rows of the matrices, then RESOURCES for each SM.

    Arguments are those that the launcher passes, without the two of Triton's scratch memory.
    """
    lines = ["// Written by tools/gpu/compile_kernels.py."]
    kernels = description["kernels"]
    for name, kernel in kernels.items():
        lines.append(f"KERNEL({name}, {len(kernel['arguments']) - 2})")
    for name, kernel in kernels.items():
        if row := kernel["row"]:
            what = f"Stored::{STORED[row['stored']]}, RowFormat::{'f32' if row['rows'] == 'fp32' else 'bf16'}"
            flags = f"{yes(row['gated'])}, {yes(row['vector'])}"
            lines.append(f"MATRIX({name}, {what}, {flags}, {row['bm']})")
    for name, kernel in kernels.items():
        for sm, needs in kernel["sm"].items():
            size = f"{needs['threads']}, {needs['shared_bytes']}, {needs.get('bn', 0)}"
            lines.append(f"RESOURCES({name}, {sm.rstrip('a')}, {yes(sm.endswith('a'))}, {size})")
    return "\n".join(lines) + "\n"


def yes(value: object) -> str:
    return "true" if value else "false"
