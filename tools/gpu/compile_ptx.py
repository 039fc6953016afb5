"""PTX of one kernel for one SM, by Triton and without a GPU; cached by what it is made of."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

KERNELS = Path(__file__).resolve().parents[2] / "plugins/kernels/cuda"
sys.path.insert(0, str(KERNELS))

import tiles  # noqa: E402

# Part of every cache key: to be raised when this file makes other PTX of the same sources.
FORMAT = 1


@dataclass(frozen=True)
class Ptx:
    """One kernel's module, its arguments in order, and what a launch of it needs."""

    text: str
    arguments: list[tuple[str, str]]
    shared: int
    threads: int


def capability(sm: str) -> int:
    return int(sm.rstrip("a"))


def sources_of(module: str) -> list[Path]:
    """The file of ``module`` and those that it imports, itself last."""
    path = KERNELS / f"{module}.py"
    text = path.read_text()
    found: list[Path] = []
    for name in re.findall(r"^from (\w+) import", text, re.MULTILINE):
        if (KERNELS / f"{name}.py").is_file():
            found += [p for p in sources_of(name) if p not in found]
    return [*found, path]


def cache_key(kernel: tiles.Kernel, sm: str) -> str:
    parts = [p.read_text() for p in sources_of(kernel.source)]
    parts += [json.dumps(asdict(kernel), sort_keys=True), sm, str(tiles.PTX_VERSIONS[sm])]
    parts += [version("triton"), str(FORMAT)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def ptx_of(kernel: tiles.Kernel, sm: str, cache: Path) -> Ptx:
    """From the cache, or compiled (0.1 to 4 seconds)."""
    place = cache / f"{cache_key(kernel, sm)}.json"
    if place.is_file():
        return Ptx(**json.loads(place.read_text()))
    ptx = compile_one(kernel, sm)
    place.parent.mkdir(parents=True, exist_ok=True)
    half = place.with_suffix(".half")
    half.write_text(json.dumps(asdict(ptx)))
    half.rename(place)
    return ptx


def compile_one(kernel: tiles.Kernel, sm: str) -> Ptx:
    """Triton's own stages up to PTX; compile_module.py runs ptxas for all kernels of an SM."""
    from triton import knobs
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import ASTSource, make_backend

    knobs.compilation.disable_line_info = True
    function: Any = getattr(importlib.import_module(kernel.source), kernel.function)
    signature = {name: kernel.types.get(name, "constexpr") for name in function.arg_names}
    missing = [n for n, t in signature.items() if t == "constexpr" and n not in kernel.constants]
    if missing or set(kernel.types) - set(signature):
        raise SystemExit(f"error: {kernel.name}: tiles.py and its arguments differ: {missing}")
    sixteen = [["tt.divisibility", 16]]
    hints = {(function.arg_names.index(name),): sixteen for name in kernel.aligned}
    source = ASTSource(function, signature, constexprs=dict(kernel.constants), attrs=hints)
    target = GPUTarget("cuda", capability(sm), 32)
    backend = make_backend(target)
    options = backend.parse_options(
        {
            "num_warps": kernel.warps,
            "num_stages": kernel.stages,
            "ptx_version": tiles.PTX_VERSIONS[sm],
            # A product is fused with a sum where the source says fma, and nowhere else.
            "enable_fp_fusion": False,
        }
    )
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    codegen, modules = backend.get_codegen_implementation(options), backend.get_module_map()
    module = source.make_ir(target, options, codegen, modules, context)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, source.language)
    metadata: dict[str, Any] = {"target": target, **options.__dict__}
    for stage in ("ttir", "ttgir", "llir", "ptx"):
        module = stages[stage](module, metadata)
    if metadata["global_scratch_size"] or metadata["profile_scratch_size"]:
        raise SystemExit(f"error: {kernel.name} for sm_{sm} wants scratch memory, and gets none")
    arguments = [(n, t) for n, t in signature.items() if t != "constexpr"]
    arguments += [("global_scratch", "*i8"), ("profile_scratch", "*i8")]
    text = renamed(str(module), kernel.name)
    return Ptx(text, arguments, metadata["shared"], 32 * metadata["num_warps"])


def renamed(text: str, name: str) -> str:
    """Triton names an entry like its function; a module with many of them needs a name for each."""
    (entry,) = re.findall(r"\.visible \.entry (\w+)\(", text)
    return re.sub(rf"\b{entry}(?=\(|_param_\d)", name, text)
