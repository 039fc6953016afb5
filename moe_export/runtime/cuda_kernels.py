"""The GPU kernels for ONNX Runtime's CUDA provider: where they are, and why they cannot run here.

A bundle that is made for them runs without them too: its graphs carry the same layers in
standard operators.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from moe_export.engines.gpu import find_gpu
from moe_export.errors import MissingEnvironmentError

if TYPE_CHECKING:
    import onnxruntime

PROVIDER = "CUDAExecutionProvider"

OPTIONS = {PROVIDER: {"use_tf32": "0"}}
"""What a session asks of a provider: products of float32 keep their bits, where ONNX Runtime's own
choice would round what enters them to the 10 of TensorFloat-32."""

# Of the ops' attributes and weights in rows: what moe_export_ort_cuda_abi() answers.
ABI = 1

_VARIABLE = "MOE_EXPORT_ORT_CUDA_LIBRARY"
_PACKAGED = Path(__file__).parents[1] / "native" / "libmoe_export_ort_cuda.so"
_HINT = "or leave CUDAExecutionProvider out to run the bundle without GPU kernels"


def library_path() -> Path:
    """The library: what ``MOE_EXPORT_ORT_CUDA_LIBRARY`` names, else the package's own.

    Raises ``MissingEnvironmentError`` if there is no such file, or it cannot be loaded or is of
    another ABI than this package.
    """
    named = os.environ.get(_VARIABLE)
    path = Path(named) if named else _PACKAGED
    if not path.is_file():
        raise MissingEnvironmentError(
            "the library of GPU kernels is not there"
            if named
            else "this installation has no GPU kernels for ONNX Runtime",
            where=f"{_VARIABLE}={named}" if named else str(path),
            hint=(
                f"unset {_VARIABLE} to use the package's own, "
                if named
                else "build them with make gpu, "
            )
            + _HINT,
        )
    _require_abi(path)
    return path.resolve()


def register(options: onnxruntime.SessionOptions) -> None:
    """Give sessions made with ``options`` the GPU kernels of the ``moe_export`` ops.

    Raises ``MissingEnvironmentError`` as ``library_path`` does, or if ONNX Runtime does not accept
    the library.
    """
    path = library_path()
    load_cuda()
    try:
        options.register_custom_ops_library(str(path))
    except Exception as error:
        raise MissingEnvironmentError(
            f"ONNX Runtime does not accept the GPU kernels: {str(error).partition(chr(10))[0]}",
            where=str(path),
            hint=f"pip install --upgrade onnxruntime-gpu, {_HINT}",
        ) from error


def load_cuda() -> None:
    """Load CUDA and cuDNN from Python packages, if they are there; a system's need nothing."""
    import onnxruntime

    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is not None:
        with redirect_stdout(StringIO()):  # it prints what it does not find
            preload()


def why_not() -> str | None:
    """Why GPU kernels cannot run on this machine, as far as can be told before they do."""
    import onnxruntime

    if PROVIDER not in onnxruntime.get_available_providers():
        return f"this ONNX Runtime has no {PROVIDER}"
    gpu = find_gpu()
    if isinstance(gpu, str):
        return gpu
    try:
        library_path()
    except MissingEnvironmentError as error:
        return error.message
    return None


def _require_abi(path: Path) -> None:
    try:
        ask = ctypes.CDLL(str(path)).moe_export_ort_cuda_abi
    except (OSError, AttributeError) as error:
        raise MissingEnvironmentError(
            f"the GPU kernels cannot be loaded: {error}",
            where=str(path),
            hint=f"reinstall moe-export, {_HINT}",
        ) from error
    ask.restype = ctypes.c_uint32
    if (abi := int(ask())) != ABI:
        raise MissingEnvironmentError(
            f"the GPU kernels have ABI {abi}, this moe-export needs {ABI}",
            where=str(path),
            hint=f"reinstall moe-export, {_HINT}",
        )
