"""Write docs/gpu-performance.md from what was compiled: resources, occupancy, SASS and a roofline.

usage: python tools/gpu/compile_performance.py [--build build/gpu] [--out docs/gpu-performance.md]

Nothing in it is a measurement: the page says *computed, not timed*.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from compile_module import triton_tool
from compile_ptx import tiles

# Of one multiprocessor (CUDA C++ Programming Guide, "Compute Capabilities").
SHARED_OF_SM = {
    "80": 164,
    "86": 100,
    "89": 100,
    "90a": 228,
    "100a": 228,
    "103a": 228,
    "110a": 228,
    "120a": 100,
}
THREADS_OF_SM = {
    "80": 2048,
    "86": 1536,
    "89": 1536,
    "90a": 2048,
    "100a": 2048,
    "103a": 2048,
    "110a": 1536,
    "120a": 1536,
}
REGISTERS_OF_SM = 65536
RESERVED_SHARED = 1024  # bytes that CUDA keeps of each block's

TENSOR_CORES = re.compile(r"\b(HMMA|HGMMA|UTCHMMA|IMMA)\b")
WIDE_LOADS = re.compile(r"\b(LDG|LDGSTS)\.E\S*\.128\b")
LOADS = re.compile(r"\b(LDG|LDGSTS)\.E")


@dataclass(frozen=True)
class Gpu:
    """Peaks that the vendor's data sheet names: bytes and dense bfloat16 operations in a second."""

    name: str
    bandwidth: float
    bf16: float


A100 = Gpu("A100 SXM 80 GB", 2.039e12, 312e12)
H100 = Gpu("H100 SXM", 3.35e12, 989e12)

# vLLM's Triton kernels at H2048 I768 E128 K8, as published: (GPU, bytes of a weight, T) to
# microseconds.
PUBLISHED = {
    (A100, 2, 1): 109, (A100, 2, 64): 917,
    (H100, 1, 1): 40, (H100, 1, 64): 237, (H100, 1, 512): 286,
}  # fmt: skip
HIDDEN, INTERMEDIATE, EXPERTS, TOP_K = 2048, 768, 128, 8


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--build", type=Path, default=Path("build/gpu"))
    options.add_argument("--out", type=Path, default=Path("docs/gpu-performance.md"))
    chosen = options.parse_args()
    kernels = json.loads((chosen.build / "kernels.json").read_text())["kernels"]
    sms = list(next(iter(kernels.values()))["sm"])
    sass = {sm: counts(chosen.build / f"cubin/sm_{sm}.cubin") for sm in sms}
    chosen.out.write_text(page(kernels, sms, sass))


def counts(cubin: Path) -> dict[str, tuple[int, int, int]]:
    """16-byte loads from memory, all of them, and tensor-core instructions of each kernel."""
    tool = triton_tool("cuobjdump")
    path = f"{Path(tool).parent}{os.pathsep}{os.environ['PATH']}"  # it calls nvdisasm
    done = subprocess.run(
        [tool, "-sass", str(cubin)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path},
    )
    found = {}
    for part in done.stdout.split("Function : ")[1:]:
        name = part.split()[0]
        found[name] = tuple(len(p.findall(part)) for p in (WIDE_LOADS, LOADS, TENSOR_CORES))
    return found


def occupancy(needs: dict[str, Any], sm: str) -> int:
    """Percent of a multiprocessor's warps that blocks of a kernel can fill."""
    warps = needs["threads"] // 32
    of_warp = -(-needs["registers"] * 32 // 256) * 256
    by_registers = REGISTERS_OF_SM // (of_warp * warps)
    by_shared = (SHARED_OF_SM[sm] << 10) // (needs["shared_bytes"] + RESERVED_SHARED)
    held = min(by_registers, by_shared, THREADS_OF_SM[sm] // needs["threads"], 32)
    return round(100 * held * needs["threads"] / THREADS_OF_SM[sm])


def page(
    kernels: dict[str, Any], sms: list[str], sass: dict[str, dict[str, tuple[int, int, int]]]
) -> str:
    parts = [
        "# GPU kernels: what the compiler says\n",
        "Written by `tools/gpu/compile_performance.py` from `build/gpu`.",
        "**Computed, not timed**: no kernel ran on a GPU for this page.",
        "How the kernels work, and how long they took where they ran, is in [gpu.md](gpu.md).\n",
        "## Roofline\n",
        *roofline(),
        "\n## Matrix kernels\n",
        "Registers of a thread, KiB of shared memory of a block, percent of a multiprocessor's",
        "warps that fit, 16-byte loads among all loads from memory, tensor-core instructions in",
        "the machine code. No kernel spills a register; a test fails where one does.\n",
        *matrix_table(kernels, [sm for sm in ("80", "90a") if sm in sms], sass),
        "\nOn the other SMs, registers / KiB / percent:\n",
        *resource_table(kernels, [sm for sm in sms if sm not in ("80", "90a")], "gem"),
        "\n## The rest\n",
        "Registers / KiB / percent:\n",
        *resource_table(kernels, sms, ""),
    ]
    return "\n".join(parts) + "\n"


def resource_table(kernels: dict[str, Any], sms: list[str], prefix: str) -> list[str]:
    lines = [
        "| kernel | " + " | ".join(f"sm_{sm}" for sm in sms) + " |",
        "|---" * (len(sms) + 1) + "|",
    ]
    for name, kernel in kernels.items():
        if name.startswith("gem") == bool(prefix):
            cells = [resources(kernel["sm"][sm], sm) for sm in sms]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def resources(needs: dict[str, Any], sm: str) -> str:
    return f"{needs['registers']} / {needs['shared_bytes'] / 1024:.0f} / {occupancy(needs, sm)}"


def matrix_table(
    kernels: dict[str, Any], sms: list[str], sass: dict[str, dict[str, tuple[int, int, int]]]
) -> list[str]:
    lines = [
        "| kernel | sm | tile | stages | registers | KiB | percent | 16-byte loads | tensor |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, kernel in kernels.items():
        for sm in sms:
            if not name.startswith("gem"):
                continue
            needs = kernel["sm"][sm]
            wide, loads, tensor = sass[sm][name]
            tile = f"{needs['bm'] or 1}x{needs['bn']}x{needs['bk']}"
            lines.append(
                f"| {name} | {sm} | {tile} | {needs['stages']} | {needs['registers']} "
                f"| {needs['shared_bytes'] / 1024:.0f} | {occupancy(needs, sm)} "
                f"| {wide} of {loads} | {tensor} |"
            )
    return lines


def chosen_experts(tokens: int) -> float:
    return EXPERTS * (1 - (1 - TOP_K / EXPERTS) ** tokens)


def bound(gpu: Gpu, weight_bytes: int, tokens: int) -> tuple[str, float, float]:
    """The launcher's way, and the microseconds that memory and tensor cores need at least."""
    assignments = tokens * TOP_K
    decodes = tokens <= tiles.DECODE_TOKENS
    decodes = decodes and assignments <= tiles.DECODE_REREADS * chosen_experts(tokens)
    matrices_read = assignments if decodes else chosen_experts(tokens)
    weights = matrices_read * 3 * HIDDEN * INTERMEDIATE * weight_bytes
    # Tokens and results once, activated rows written and read in bfloat16, slots the same in
    # float32.
    rows = tokens * HIDDEN * 2 * 2 + assignments * (INTERMEDIATE * 2 * 2 + HIDDEN * 4 * 2)
    mean = assignments / EXPERTS
    bm = next((b for m, b in sorted(tiles.ROWS_OF_TILE.items()) if mean <= m), tiles.LARGEST_ROWS)
    # Rows of padding are multiplied too: half a tile for each expert in the mean.
    multiplied = 0 if decodes else assignments + chosen_experts(tokens) * (bm - 1) / 2
    operations = 2 * multiplied * 3 * HIDDEN * INTERMEDIATE
    way = "by assignment" if decodes else f"tiles of {bm} rows"
    return way, (weights + rows) / gpu.bandwidth * 1e6, operations / gpu.bf16 * 1e6


def roofline() -> list[str]:
    shape = f"H{HIDDEN} I{INTERMEDIATE} E{EXPERTS} K{TOP_K}"
    lines = [
        f"{shape} with random routing: the least time that memory and tensor cores need for the",
        "bytes and products of the variant that the launcher chooses, at the peaks of the data",
        "sheets; the larger of the two bounds the whole. Beside it what was",
        "published for vLLM's Triton kernels (A100 in bfloat16; H100 in fp8, which has the",
        "bytes of our int8).\n",
        "| GPU | weights | T | way | memory, us | tensor cores, us | published, us |",
        "|---|---|---|---|---|---|---|",
    ]
    for gpu, weight_bytes in ((A100, 2), (A100, 1), (H100, 2), (H100, 1)):
        for tokens in (1, 4, 16, 64, 512, 4096):
            way, memory, tensor = bound(gpu, weight_bytes, tokens)
            known = PUBLISHED.get((gpu, weight_bytes, tokens), "")
            name = "bf16" if weight_bytes == 2 else "int8"
            lines.append(
                f"| {gpu.name} | {name} | {tokens} | {way} "
                f"| {memory:.0f} | {tensor:.0f} | {known} |"
            )
    return lines


if __name__ == "__main__":
    main()
