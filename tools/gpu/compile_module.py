"""One module of many kernels: their PTX merged, assembled by ptxas, packed by fatbinary."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

SHARED = re.compile(r"^\.extern \.shared \.align (\d+) \.b8 global_smem\[\];\n", re.MULTILINE)
HEADER = re.compile(r"\A.*?\.address_size 64\n", re.DOTALL)


def merge(texts: list[str]) -> str:
    """One header, one declaration of shared memory, then every kernel."""
    headers = {tuple(re.findall(r"^\.(?:version|target|address_size).*$", t, re.M)) for t in texts}
    if len(headers) != 1:
        raise SystemExit(f"error: kernels of one module differ in their headers: {headers}")
    align = max((int(a) for t in texts for a in SHARED.findall(t)), default=16)
    bodies = [without_unused(SHARED.sub("", HEADER.sub("", t))) for t in texts]
    loose = [line for b in bodies for line in re.findall(r"^\.(?:global|const).*$", b, re.M)]
    if loose:
        raise SystemExit(
            f"error: a kernel declares data of the module, which merging would clash: {loose[0]}"
        )
    head = "\n".join(next(iter(headers)))
    return f"{head}\n\n.extern .shared .align {align} .b8 global_smem[];\n" + "\n".join(bodies)


def without_unused(body: str) -> str:
    """Libdevice leaves behind the name by which it asked whether to flush subnormals."""
    for line, name in re.findall(r"^(\.global \.align 1 \.b8 (\S+)\[\d+\] = .*\n)", body, re.M):
        if body.count(name) == 1:
            body = body.replace(line, "")
    return body


def triton_tool(name: str) -> str:
    spec = find_spec("triton")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "error: triton is not installed\nhint: pip install -r tools/gpu/requirements.txt"
        )
    return str(Path(spec.origin).parent / "backends/nvidia/bin" / name)


def assembler(sm: str) -> str:
    """The older ptxas where it knows the SM: an older driver then loads what it makes."""
    return triton_tool("ptxas" if int(sm.rstrip("a")) <= 103 else "ptxas-blackwell")


def assemble(ptx: Path, sm: str, cubin: Path) -> str:
    """Writes ``cubin`` and returns what ptxas says of each kernel."""
    command = [
        assembler(sm),
        "-v",
        "--fmad=false",
        f"--gpu-name=sm_{sm}",
        str(ptx),
        "-o",
        str(cubin),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: ptxas refused {ptx} for sm_{sm}\n{done.stderr}")
    return done.stderr


def resources(talk: str) -> dict[str, dict[str, int]]:
    """Registers and bytes spilled of each kernel, out of what ptxas says."""
    found: dict[str, dict[str, int]] = {}
    name = ""
    for line in talk.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            found.setdefault(name, {})["spill_bytes"] = int(match[1]) + int(match[2])
        elif match := re.search(r"Used (\d+) registers", line):
            found.setdefault(name, {})["registers"] = int(match[1])
    return found


def fatbinary() -> str:
    """From PATH, or from the wheel of CUDA's compiler."""
    if there := shutil.which("fatbinary"):
        return there
    spec = find_spec("nvidia")
    for root in spec.submodule_search_locations or [] if spec else []:
        for tool in sorted(Path(root).glob("**/bin/fatbinary")):
            return str(tool)
    raise SystemExit(
        "error: fatbinary, which packs kernels of many GPUs into one file, is not here\n"
        "hint: pip install nvidia-cuda-nvcc, or put a CUDA toolkit's bin folder on PATH"
    )


def pack(cubins: dict[str, Path], ptx: tuple[str, Path], out: Path) -> None:
    images = [f"--image3=kind=elf,sm={sm},file={path}" for sm, path in cubins.items()]
    images += [f"--image3=kind=ptx,sm={ptx[0]},file={ptx[1]}"]
    command = [fatbinary(), "-64", "--compress-all", f"--create={out}", *images]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: fatbinary failed\n{done.stdout}{done.stderr}")
