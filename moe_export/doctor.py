"""What this machine can build and run, what is missing for the rest, and what mends it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from moe_export.engines.flavours import FLAVOURS, Flavour, installed_version
from moe_export.engines.gpu import Gpu, find_gpu
from moe_export.engines.libraries import plugin_library
from moe_export.errors import MissingEnvironmentError
from moe_export.runtime import cuda_kernels, kernels


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that something needs: what is here of it, or why it is not and what mends that."""

    name: str
    needed_for: str
    found: str | None
    missing: str | None = None
    mend: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ability:
    """Something that can be done with a model or a bundle, and what it still lacks here."""

    name: str
    lacks: tuple[str, ...]
    """Names of findings."""


def examine() -> tuple[Finding, ...]:
    """Look at this machine; nothing is installed, built or changed, and nothing runs on a GPU."""
    return tuple(_findings())


def abilities(findings: Sequence[Finding]) -> tuple[Ability, ...]:
    """What can be done with what was found."""
    missing = {finding.name for finding in findings if finding.found is None}
    return tuple(
        Ability(name=name, lacks=tuple(need for need in needs if need in missing))
        for name, needs in _ABILITIES.items()
    )


_PLUGINS = "TensorRT plugins"
_CUDA_KERNELS = "CUDA kernels"
_ABILITIES = {
    "export a model": ("PyTorch", "ONNX"),
    "export a Transformers directory": ("PyTorch", "ONNX", "Transformers"),
    "run a bundle for standard": ("ONNX Runtime",),
    "run a bundle for ort": ("ONNX Runtime", "native kernels"),
    "run a bundle for ort on a GPU": ("ONNX Runtime", "GPU", _CUDA_KERNELS),
    "build engines for trt-rtx": ("TensorRT-RTX", _PLUGINS),
    "build engines for trt": ("TensorRT", _PLUGINS, "GPU"),
    "compile the GPU kernels": ("Triton", "fatbinary"),
}


def _findings() -> Iterator[Finding]:
    yield _onnx_runtime()
    yield _native()
    yield _package("PyTorch", "torch", "exporting", "moe-export[export]")
    yield _package("ONNX", "onnx", "exporting", "moe-export[export]")
    yield _package(
        "Transformers", "transformers", "Transformers directories", "moe-export[transformers]"
    )
    yield from map(_flavour, FLAVOURS.values())
    yield _plugins()
    yield _gpu()
    yield _cuda_kernels()
    yield _package("Triton", "triton", "compiling the GPU kernels", "triton")
    yield _program("nvcc", "nothing; TensorRT and the kernels do without it")
    yield _program("fatbinary", "packing the GPU kernels", "nvidia-cuda-nvcc")


def _package(name: str, package: str, needed_for: str, extra: str) -> Finding:
    found = _version(package)
    if found is None:
        return Finding(
            name=name,
            needed_for=needed_for,
            found=None,
            missing=f"there is no Python package {package}",
            mend=f"pip install '{extra}'",
        )
    return Finding(name=name, needed_for=needed_for, found=found)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _onnx_runtime() -> Finding:
    name, needed_for = "ONNX Runtime", "running bundles"
    plain, for_gpus = map(_version, ("onnxruntime", "onnxruntime-gpu"))
    if plain and for_gpus:
        return Finding(
            name=name,
            needed_for=needed_for,
            found=None,
            missing="onnxruntime and onnxruntime-gpu are installed one over the other",
            mend="pip uninstall --yes onnxruntime && "
            "pip install --force-reinstall --no-deps onnxruntime-gpu",
        )
    if not plain and not for_gpus:
        return _package(name, "onnxruntime", needed_for, "moe-export")
    import onnxruntime

    providers = ", ".join(onnxruntime.get_available_providers())
    return Finding(name=name, needed_for=needed_for, found=f"{plain or for_gpus}, {providers}")


def _cuda_kernels() -> Finding:
    needed_for = "bundles for ort with --device cuda, on a GPU"
    try:
        why = cuda_kernels.why_not()
    except ImportError as error:
        why = f"ONNX Runtime cannot be imported: {error}"
    if why is None:
        path = str(cuda_kernels.library_path())
        return Finding(name=_CUDA_KERNELS, needed_for=needed_for, found=path)
    mend = "pip install 'moe-export[cuda]', and what docs/ort-cuda.md says"
    return Finding(name=_CUDA_KERNELS, needed_for=needed_for, found=None, missing=why, mend=mend)


def _native() -> Finding:
    name, needed_for = "native kernels", "bundles for ort"
    try:
        path, level = kernels.library_path(), kernels.level()
    except MissingEnvironmentError as error:
        return _missing(name, needed_for, error)
    return Finding(name=name, needed_for=needed_for, found=f"{path}, level {level}")


def _flavour(flavour: Flavour) -> Finding:
    needed_for = f"engines for {flavour.target}"
    found = installed_version(flavour)
    if found is None or importlib.util.find_spec(flavour.libraries) is None:
        what = flavour.module if found is None else flavour.libraries
        return Finding(
            name=flavour.title,
            needed_for=needed_for,
            found=None,
            missing=f"there is no Python module {what}",
            mend=f"pip install 'moe-export[{flavour.extra}]'",
        )
    return Finding(name=flavour.title, needed_for=needed_for, found=found)


def _plugins() -> Finding:
    needed_for = "engines with MoE layers"
    try:
        return Finding(name=_PLUGINS, needed_for=needed_for, found=str(plugin_library()))
    except MissingEnvironmentError as error:
        return _missing(_PLUGINS, needed_for, error)


def _gpu() -> Finding:
    needed_for = "running engines, and building those for trt"
    found = find_gpu()
    if isinstance(found, Gpu):
        cuda = f"{found.cuda // 1000}.{found.cuda % 1000 // 10}"
        what = f"{found.name}, SM {found.sm}, a driver for CUDA {cuda}"
        return Finding(name="GPU", needed_for=needed_for, found=what)
    return Finding(
        name="GPU",
        needed_for=needed_for,
        found=None,
        missing=found,
        mend="an NVIDIA GPU of SM 80 or newer and its driver",
    )


def _program(name: str, needed_for: str, package: str | None = None) -> Finding:
    path = shutil.which(name)
    if path is None:
        return Finding(
            name=name,
            needed_for=needed_for,
            found=None,
            missing=f"there is no program {name}",
            mend=None if package is None else f"pip install {package}",
        )
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    release = next((part for part in told.split(", ") if part.startswith("release ")), "")
    return Finding(
        name=name, needed_for=needed_for, found=f"{path}{', ' if release else ''}{release}"
    )


def _missing(name: str, needed_for: str, error: MissingEnvironmentError) -> Finding:
    return Finding(
        name=name, needed_for=needed_for, found=None, missing=error.message, mend=error.hint
    )
