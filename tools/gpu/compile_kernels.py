"""Compile the GPU kernels ahead of time, without a GPU.

usage: python tools/gpu/compile_kernels.py --out build/gpu [--sm 80 90a ...] [--jobs N]

Writes moe_kernels.fatbin (a cubin for each SM, and the PTX of sm_80 for devices to come),
kernels.json (arguments and resources of each kernel), kernel_table.inc (the same for the launcher)
and ptx/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import compile_module
from compile_ptx import Ptx, ptx_of, tiles
from compile_table import table

PER_KERNEL = ("80", "90a")  # SMs whose PTX is also written kernel by kernel


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path("build/gpu"))
    options.add_argument("--sm", nargs="+", default=list(tiles.SMS), choices=tiles.SMS)
    options.add_argument("--jobs", type=int, default=1)
    chosen = options.parse_args()
    out: Path = chosen.out
    sms = sorted({"80", *chosen.sm}, key=tiles.SMS.index)  # later devices run the PTX of sm_80
    built = {sm: build(sm, out, chosen.jobs) for sm in sms}
    cubins = {sm: out / f"cubin/sm_{sm}.cubin" for sm in sms}
    fatbin = out / "moe_kernels.fatbin"
    write(out / "kernels.json", json.dumps(description(built), indent=1))
    write(out / "kernel_table.inc", table(description(built)))
    stamp = out / "cache/fatbin.stamp"
    content = hashlib.sha256(b"".join(p.read_bytes() for p in cubins.values())).hexdigest()
    if not (fatbin.is_file() and stamp.is_file() and stamp.read_text() == content):
        compile_module.pack(cubins, ("80", out / "ptx/sm_80.ptx"), fatbin)
        stamp.write_text(content)
    print(
        f"{len(tiles.kernels('80'))} kernels for {', '.join(sms)}: "
        f"{fatbin}, {fatbin.stat().st_size} bytes"
    )


def build(sm: str, out: Path, jobs: int) -> dict[str, dict[str, Any]]:
    """Compile all kernels for ``sm`` and say what each of them needs."""
    kernels = tiles.kernels(sm)
    compiled = in_parallel(partial(ptx_of, sm=sm, cache=out / "cache"), kernels, jobs)
    folder = out / "ptx" if sm == "80" else out / f"ptx/sm_{sm}"
    if sm in PER_KERNEL:
        for kernel, ptx in zip(kernels, compiled, strict=True):
            write(folder / f"{kernel.name}.ptx", ptx.text)
    module = out / f"ptx/sm_{sm}.ptx"
    write(module, compile_module.merge([ptx.text for ptx in compiled]))
    needs = compile_module.resources(assembled(module, sm, out))
    limit = tiles.SHARED_LIMITS[sm]
    for kernel, ptx in zip(kernels, compiled, strict=True):
        if ptx.shared > limit:
            raise SystemExit(
                f"error: {kernel.name} wants {ptx.shared} bytes of shared memory, "
                f"sm_{sm} has {limit}\nhint: a smaller tile or fewer stages in tiles.py"
            )
    return {
        kernel.name: {
            "arguments": ptx.arguments,
            "row": kernel.row,
            "sm": {
                "shared_bytes": ptx.shared,
                "threads": ptx.threads,
                **needs[kernel.name],
                **{name: kernel.row[name] for name in ("bm", "bn") if name in kernel.row},
                "bk": kernel.constants.get("BK", 0),
                "stages": kernel.stages,
            },
        }
        for kernel, ptx in zip(kernels, compiled, strict=True)
    }


def assembled(module: Path, sm: str, out: Path) -> str:
    """What ptxas says of the module; it runs where the PTX is new."""
    cubin = out / f"cubin/sm_{sm}.cubin"
    tool = compile_module.assembler(sm)
    key = hashlib.sha256(module.read_bytes() + tool.encode()).hexdigest()[:32]
    talk = out / f"cache/{sm}-{key}.ptxas"
    if not (talk.is_file() and cubin.is_file()):
        cubin.parent.mkdir(parents=True, exist_ok=True)
        cubin.unlink(missing_ok=True)
        for old in talk.parent.glob(f"{sm}-*.ptxas"):
            old.unlink()
        said = compile_module.assemble(module, sm, cubin)
        talk.write_text(said)
    return talk.read_text()


def in_parallel(work: Any, kernels: list[tiles.Kernel], jobs: int) -> list[Ptx]:
    if jobs <= 1:
        return [work(kernel) for kernel in kernels]
    with ProcessPoolExecutor(jobs) as pool:
        return list(pool.map(work, kernels))


def description(built: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """``kernels.json``: arguments are the same on every SM, tiles and resources are not."""
    kernels = {}
    for name, first in next(iter(built.values())).items():
        kernels[name] = {
            "arguments": [{"name": n, "type": t} for n, t in first["arguments"]],
            "row": first["row"],
            "sm": {sm: of_sm[name]["sm"] for sm, of_sm in built.items()},
        }
    return {"version": 1, "kernels": kernels}


def write(path: Path, text: str) -> None:
    """Leaves a file alone that already says this, so that nothing is built anew for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


if __name__ == "__main__":
    main()
