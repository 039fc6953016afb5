"""Run a bundle's graph on ONNX Runtime: arrays by name in, arrays by name out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from moe_export.errors import (
    MemoryBudgetError,
    MissingEnvironmentError,
    UnsafeInputError,
    UnsupportedError,
    UsageError,
)
from moe_export.forms import Array, Device, KernelNeeds
from moe_export.manifest import TensorInfo
from moe_export.moe.packing import VERSION as PANELS_VERSION
from moe_export.runtime import cuda_kernels
from moe_export.runtime.binding import Binding, first_line, is_out_of_memory, name_of, running
from moe_export.runtime.bundle import Bundle, Graph
from moe_export.runtime.cancel import Cancellation
from moe_export.runtime.resident import in_use

if TYPE_CHECKING:
    import onnxruntime

# ONNX Runtime's name for an element type to NumPy's.
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
} | {
    f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}

# Severity 4: only what ends the process is logged; everything else reaches the caller as an error.
_LOG_FATAL_ONLY = 4

# Before it some of the standard operators of a MoE layer end the process where there are no tokens.
_FIRST_WITH_STANDARD_LAYERS = (1, 32)


class Session:
    """One graph of a bundle, ready to run.

    Runs may overlap: several threads can share one session.  Equal inputs give equal outputs, bit
    for bit, on one machine with one number of ``threads`` (``None``: one for each core).  What the
    MoE layers of a bundle for ``ort`` compute depends on neither: not on the number of threads, nor
    on the other tokens of a batch.

    ``graph`` is ``main``, ``probe`` (the same with the MoE layers' insides as further outputs) or
    ``experts`` (each experts op alone).  ``providers`` are ONNX Runtime's execution providers, the
    first that can run an operator taking it; ``None`` is the CPU's, or, for a bundle made for the
    device ``cuda``, CUDA's where that and this project's GPU kernels are here.  ``profile`` is the
    beginning of a path at which ONNX Runtime writes what each operator took, which slows runs down;
    ``end_profile`` gives the file.

    Raises ``MissingEnvironmentError`` where the bundle needs kernels that are not here, or others,
    or a newer ONNX Runtime.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        component: str = "model",
        graph: Graph = "main",
        profile: Path | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"threads must be 1 or more, got {threads}")
        self.bundle = Bundle.of(bundle)
        self.component = self.bundle.component(component)
        path = self.bundle.graph_path(component, graph)
        manifest = self.bundle.manifest
        runs_on = tuple(providers or _providers(manifest.device))
        on_gpu = manifest.device == "cuda" and cuda_kernels.PROVIDER in runs_on
        options = partial(_options, threads=threads, profile=profile)
        session = _load(path, options, runs_on, "cuda" if on_gpu else manifest.kernels)
        self._session: onnxruntime.InferenceSession | None = session
        self.inputs = tuple(map(_tensor_info, session.get_inputs()))
        self.outputs = tuple(map(_tensor_info, session.get_outputs()))

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(info.name for info in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(info.name for info in self.outputs)

    def run(
        self,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        cancel: Cancellation | None = None,
    ) -> dict[str, Array]:
        """The named ``outputs`` (all, if ``None``) for ``inputs``.

        Raises ``UsageError`` where a name, dtype or shape is not the graph's, or two inputs give
        one symbolic dimension two sizes: what was given and what is expected.  Nothing is cast.
        Where ``cancel`` is cancelled, ``Cancelled``, also in the middle of the run.
        """
        session = self._session
        if session is None:
            raise UsageError("the session is closed")
        wanted = self.output_names if outputs is None else tuple(outputs)
        _check_names("output", wanted, self.output_names)
        arrays = check_inputs(inputs, self.inputs)
        if not wanted:
            return {}
        with in_use():
            return dict(zip(wanted, _run(session, wanted, arrays, cancel), strict=True))

    def bind(self) -> Binding:
        """A place for inputs and outputs that stay where they are from run to run."""
        if self._session is None:
            raise UsageError("the session is closed")
        return Binding(self._session, self.inputs, self.outputs)

    def end_profile(self) -> Path:
        """The file with what each operator of the runs so far took; no later run is in it.

        Raises ``UsageError`` for a session that keeps no profile.
        """
        written = self._session.end_profiling() if self._session is not None else ""
        if not written:
            raise UsageError("the session keeps no profile")
        return Path(written)

    def close(self) -> None:
        """Free the graph's memory once the runs under way have ended.  Closing twice is fine."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_inputs(given: Mapping[str, Array], expected: Sequence[TensorInfo]) -> dict[str, Array]:
    """``given`` as arrays, if their names, dtypes and shapes are ``expected``; else ``UsageError``.

    A symbolic dimension may have any size, the same one wherever its name occurs.
    """
    names = [info.name for info in expected]
    _check_names("input", given, names)
    missing = [str(info) for info in expected if info.name not in given]
    if missing:
        raise UsageError(f"missing input {missing[0]}", hint=f"the inputs are {_listed(names)}")
    sizes: dict[str, tuple[int, str]] = {}
    return {info.name: _check_array(given[info.name], info, sizes) for info in expected}


def _check_names(kind: str, given: Any, known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise UsageError(f"unknown {kind} {name!r}", hint=f"the {kind}s are {_listed(known)}")


def _check_array(value: Array, info: TensorInfo, sizes: dict[str, tuple[int, str]]) -> Array:
    """One input; ``sizes`` collects each symbolic dimension's size and the input that set it."""
    array = np.asarray(value)
    if info.dtype == "str":
        raise UnsupportedError(f"input {info.name!r} is text, which this release cannot pass")
    if name_of(array.dtype) != info.dtype:
        raise UsageError(f"input {info.name!r} has the wrong dtype: {_got(array, info)}")
    if array.ndim != len(info.shape):
        raise UsageError(f"input {info.name!r} has the wrong number of axes: {_got(array, info)}")
    for axis, (size, dim) in enumerate(zip(array.shape, info.shape, strict=True)):
        if isinstance(dim, int) and size != dim:
            got = _got(array, info)
            raise UsageError(f"input {info.name!r} has size {size} on axis {axis}: {got}")
        if isinstance(dim, str) and sizes.setdefault(dim, (size, info.name))[0] != size:
            other_size, other = sizes[dim]
            raise UsageError(
                f"input {info.name!r} has {dim} = {size}, {other!r} has {dim} = {other_size}: "
                + _got(array, info)
            )
    return array


def _got(array: Array, info: TensorInfo) -> str:
    return f"got {array.dtype} {list(array.shape)}, expected {info}"


def _run(
    session: onnxruntime.InferenceSession,
    wanted: Sequence[str],
    inputs: dict[str, Array],
    cancel: Cancellation | None,
) -> list[Array]:
    options = None if cancel is None else cancel.run_options()
    with running(inputs, cancel):
        results: list[Array] = session.run(list(wanted), inputs, options)
    return results


def _providers(device: Device) -> tuple[str, ...]:
    """What a bundle for ``device`` runs on where nobody says."""
    if device == "cuda" and cuda_kernels.why_not() is None:
        return (cuda_kernels.PROVIDER, "CPUExecutionProvider")
    return ("CPUExecutionProvider",)


def _load(
    path: Path,
    make_options: Callable[[Any], Any],
    providers: tuple[str, ...],
    needs: KernelNeeds | Literal["cuda"] | None,
) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingEnvironmentError(
            f"ONNX Runtime cannot be imported: {error}", hint="pip install onnxruntime"
        ) from error
    available = onnxruntime.get_available_providers()
    for provider in providers:
        if provider not in available:
            raise MissingEnvironmentError(
                f"this ONNX Runtime has no {provider}", hint=f"it has {_listed(available)}"
            )
    options = make_options(onnxruntime)
    if needs == "cuda":
        cuda_kernels.register(options)
    elif needs is not None:
        _register(options, path, needs)
    else:
        _require_standard_layers(onnxruntime.__version__, path)
    if needs == "cuda":
        return _create_on_gpu(onnxruntime, path, options, providers)
    return _create(onnxruntime, path, options, providers)


def _register(options: Any, path: Path, needs: KernelNeeds) -> None:
    """Give the session the kernels that its bundle needs."""
    from moe_export.runtime import kernels

    here = KernelNeeds(abi=kernels.ABI, panels=PANELS_VERSION)
    if needs != here:
        raise MissingEnvironmentError(
            f"the bundle needs native kernels of ABI {needs.abi} for panels of version "
            f"{needs.panels}; this moe-export has ABI {here.abi} and version {here.panels}",
            where=str(path),
            hint="run it with the release that made it, or export the model again",
        )
    kernels.register(options)


def _require_standard_layers(version: str, path: Path) -> None:
    release = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if release < _FIRST_WITH_STANDARD_LAYERS:
        first = ".".join(map(str, _FIRST_WITH_STANDARD_LAYERS))
        raise MissingEnvironmentError(
            f"a bundle for the target 'standard' needs ONNX Runtime {first}, this is {version}",
            where=str(path),
            hint=f"pip install 'onnxruntime>={first}', or export with --target ort",
        )


def _create_on_gpu(ort: Any, path: Path, options: Any, providers: tuple[str, ...]) -> Any:
    """A session whose CUDA provider has started, or the words that it has not.

    ONNX Runtime goes on without a provider that does not start.  The MoE ops are known by then and
    nobody is left to run them.
    """
    where, hint = str(path), "its own log says why: it needs the GPU, CUDA and cuDNN of its release"
    lost = "ONNX Runtime's CUDA provider did not start"
    errors = ort.capi.onnxruntime_pybind11_state
    try:
        session = _create(ort, path, options, providers)
    except MissingEnvironmentError as error:
        if isinstance(error.__cause__, errors.NotImplemented):
            raise MissingEnvironmentError(lost, where=where, hint=hint) from error
        raise
    if cuda_kernels.PROVIDER not in session.get_providers():
        raise MissingEnvironmentError(lost, where=where, hint=hint)
    return session


def _create(ort: Any, path: Path, options: Any, providers: tuple[str, ...]) -> Any:
    errors = ort.capi.onnxruntime_pybind11_state
    # Without fallback: it retries on the CPU and prints its troubles to standard output.
    chosen = [(each, cuda_kernels.OPTIONS.get(each, {})) for each in providers]
    make = partial(ort.InferenceSession, providers=chosen, enable_fallback=False)
    try:
        return make(str(path), options)
    except errors.NotImplemented as error:
        raise _too_old(ort, path, error) from error
    # A broken graph; the last where the message about it quotes bytes that are not UTF-8.
    except (
        errors.InvalidGraph,
        errors.InvalidProtobuf,
        errors.InvalidArgument,
        UnicodeDecodeError,
    ) as error:
        raise UnsafeInputError(
            f"ONNX Runtime refuses the graph: {first_line(error)}", where=str(path)
        ) from error
    except errors.RuntimeException as error:
        if is_out_of_memory(error):
            raise MemoryBudgetError(
                f"the model does not fit into memory: {first_line(error)}", where=str(path)
            ) from error
        raise UnsafeInputError(
            f"ONNX Runtime refuses the graph: {first_line(error)}", where=str(path)
        ) from error
    except errors.Fail as error:
        # One code for a broken graph and for one that is newer than this ONNX Runtime.
        if "IR version" in str(error) or "opset" in str(error):
            raise _too_old(ort, path, error) from error
        raise UnsafeInputError(
            f"ONNX Runtime cannot load the graph: {first_line(error)}", where=str(path)
        ) from error


def _options(ort: Any, *, threads: int | None, profile: Path | None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_FATAL_ONLY
    options.use_deterministic_compute = True
    # Else what a run needs is kept as one more block for each shape, and shapes are many.
    options.enable_mem_pattern = False
    # Threads look for work until a run is over, not longer: then the cores are the next session's.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads or 0  # ONNX Runtime's word for one for each core
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return options


def _too_old(ort: Any, path: Path, error: Exception) -> MissingEnvironmentError:
    return MissingEnvironmentError(
        f"ONNX Runtime {ort.__version__} cannot run the graph: {first_line(error)}",
        where=str(path),
        hint="pip install --upgrade onnxruntime",
    )


def _tensor_info(argument: Any) -> TensorInfo:
    try:
        name, kind, shape = argument.name, argument.type, tuple(argument.shape)
    except UnicodeDecodeError as error:
        raise UnsafeInputError("a name in the graph is not UTF-8") from error
    dtype = _DTYPES.get(kind)
    if dtype is None:
        raise UnsupportedError(f"{name!r} is a {kind}, not a tensor")
    return TensorInfo(name=name, dtype=dtype, shape=shape)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
