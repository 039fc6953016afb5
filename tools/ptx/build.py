"""Compiles translated kernels: one shared library for a PTX file, beside the runtime's.

What was compiled once is kept under the hash of all that went into it.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from .reader import read_module
from .translate import translate_module

HERE = Path(__file__).parent
RUNTIME = HERE / "runtime"
CACHE = HERE.parents[1] / "build" / "ptx"
# One rounding for each instruction, and integers that wrap as they do on a device.
SEMANTICS = ["-std=c++17", "-fPIC", "-ffp-contract=off", "-fwrapv", "-fno-strict-aliasing"]
# The runtime's loops over lanes are worth vectorising; kernels are calls of them, and -O0 compiles
# those in two thirds of the time of -O1.
RUNTIME_FLAGS = [*SEMANTICS, "-O3", "-march=native"]
KERNEL_FLAGS = [*SEMANTICS, "-O0"]
JOBS = int(os.environ.get("MOE_EXPORT_JOBS", "2"))


class CompilerError(Exception):
    """The system's compiler refused what the translator wrote."""


def build(ptx: Path, folder: Path | None = None) -> Path:
    """The library of a PTX file, in ``folder`` (or where built libraries are kept)."""
    library = build_text(ptx.read_text(), ptx.name)
    if folder is None:
        return library
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{ptx.stem}.so"
    # Never written over: a process may have the library that lies there loaded.
    if not place.exists() or not filecmp.cmp(library, place, shallow=False):
        part = place.with_suffix(f".{os.getpid()}.part")
        shutil.copyfile(library, part)
        part.rename(place)
    return place


def build_all(files: Sequence[Path], folder: Path) -> list[Path]:
    """The libraries of PTX files in ``folder``, two at a time (``MOE_EXPORT_JOBS``)."""
    runtime_library()
    with ThreadPoolExecutor(JOBS) as pool:
        return list(pool.map(lambda ptx: build(ptx, folder), files))


def build_text(text: str, name: str) -> Path:
    """The library of PTX; ``name`` is what messages call the file."""
    files = translate_module(read_module(text, name))
    # Not linked with the runtime, which is there when they are loaded: its code may change.
    looked_at = {p.name: p.read_bytes() for p in RUNTIME.glob("*.h")}
    looked_at |= {name: source.encode() for name, source in files.items()}
    key = _key(_compiler(), KERNEL_FLAGS, "", looked_at)
    stem = Path(name).stem
    folder = CACHE / f"{stem}-{key}"
    library = folder / f"{stem}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for file, source in files.items():
            (folder / file).write_text(source)
        flags = [*KERNEL_FLAGS, f"-I{RUNTIME}"]
        _compile([folder / file for file in files], flags, [], library)
    return library


@cache
def runtime_library() -> Path:
    """The library that all kernels share, buffers and checks included."""
    sources = {p.name: p.read_bytes() for p in sorted(RUNTIME.iterdir())}
    key = _key(_compiler(), RUNTIME_FLAGS, _cpu(), sources)
    folder = CACHE / f"runtime-{key}"
    library = folder / "libptx_runtime.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        soname = "-Wl,-soname,libptx_runtime.so"
        _compile(sorted(RUNTIME.glob("*.cc")), RUNTIME_FLAGS, [soname], library)
    return library


@cache
def mock_driver() -> Path:
    """``libcuda.so.1``, a driver whose device is this executor."""
    sources = {p.name: p.read_bytes() for p in sorted((HERE / "mock_cuda").iterdir())}
    runtime = runtime_library()
    key = _key(_compiler(), SEMANTICS, str(runtime), sources)
    folder = CACHE / f"mock-{key}"
    library = folder / "libcuda.so.1"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        flags = [*SEMANTICS, "-O1", "-Wall", "-Wextra", f"-I{RUNTIME}"]
        link = [str(runtime), f"-Wl,-rpath,{runtime.parent}", "-ldl", "-Wl,-soname,libcuda.so.1"]
        _compile(sorted((HERE / "mock_cuda").glob("*.cc")), flags, link, library)
    return library


def _compiler() -> str:
    return os.environ.get("CXX", "c++")


@cache
def _cpu() -> str:
    """What ``-march=native`` stands for here."""
    command = [*_compiler().split(), "-march=native", "-Q", "--help=target"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _key(compiler: str, flags: list[str], more: str, files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256(repr((compiler, flags, more)).encode())
    for name, content in sorted(files.items()):
        digest.update(name.encode() + b"\0" + content + b"\0")
    return digest.hexdigest()[:16]


def _compile(sources: list[Path], flags: list[str], link: list[str], library: Path) -> None:
    objects = {source: library.parent / f"{source.stem}.{os.getpid()}.o" for source in sources}
    compile_ = [*_compiler().split(), *flags, "-c"]

    def one(source: Path) -> None:
        _run([*compile_, str(source), "-o", str(objects[source])])

    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(one, sources))
    # Renamed when whole: another process may be looking for it.
    part = library.with_suffix(f".{os.getpid()}.part")
    parts = [str(o) for o in objects.values()]
    _run([*_compiler().split(), "-shared", *parts, *link, "-o", str(part)])
    part.rename(library)
    for built in objects.values():
        built.unlink()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompilerError(f"{' '.join(command)}\n{done.stderr[:4000]}")
