"""Run an engine of a bundle on the GPU that it was built for: arrays in, arrays out."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Self

import numpy as np

from moe_export.engines.flavours import Flavour, flavour_of, require
from moe_export.engines.gpu import Gpu, find_gpu
from moe_export.engines.libraries import plugin_library
from moe_export.errors import MissingEnvironmentError, UnsafeInputError, UsageError
from moe_export.forms import Array
from moe_export.manifest import EngineRecord, Shapes, TensorInfo
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.device import Device, buffers
from moe_export.runtime.session import check_inputs

_TRUST = "MOE_EXPORT_TRUST_ENGINES"

_CREATED: set[tuple[str, str]] = set()
"""Plugin libraries that this process has loaded, by TensorRT's module and the digest."""


class EngineSession:
    """One component of a bundle as an engine, with the names and dtypes of its ``Session``.

    Runs may not overlap.  Raises ``MissingEnvironmentError`` where there is no GPU, TensorRT or
    plugin library of the kind that the engine was built with.
    """

    def __init__(self, bundle: Bundle, *, component: str = "model") -> None:
        self._record = engine_for(bundle, component)
        part = bundle.component(component)
        self.inputs, self.outputs = part.inputs, part.outputs
        flavour = _flavour(bundle)
        self._device = Device()
        self._trt = _tensorrt(flavour, self._record)
        self._talk = _talk(self._trt)  # TensorRT keeps no reference to it
        runtime = self._trt.Runtime(self._talk)
        if self._record.embeds_plugins:
            _require_trust(self._record)
            runtime.engine_host_code_allowed = True
        plan = (bundle.path / self._record.plan).read_bytes()
        self._engine = runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise MissingEnvironmentError(
                f"{flavour.title} {self._trt.__version__} does not load the engine, which"
                f" {self._record.tensorrt} built: {self._talk.last_words()}",
                where=self._record.plan,
                hint=f"moe-export build {bundle.path}",
            )
        self._context = self._engine.create_execution_context()

    def run(
        self, inputs: Mapping[str, Array], *, outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """The named ``outputs`` (all, if ``None``) for ``inputs``, as ``Session.run`` has them.

        Raises ``UsageError`` for inputs that are not the engine's or fit none of its profiles.
        """
        given = {
            name: np.ascontiguousarray(array)
            for name, array in check_inputs(inputs, self.inputs).items()
        }
        self._device.enter()
        self._take_profile(given)
        for name, array in given.items():
            self._context.set_input_shape(name, array.shape)
        infos = {info.name: info for info in self.outputs}
        shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in infos}
        sizes = {name: array.nbytes for name, array in given.items()}
        sizes |= {name: _nbytes(infos[name], shape) for name, shape in shapes.items()}
        with buffers(self._device, sizes) as memory:
            for name, array in given.items():
                memory[name].write(array)
            for name, buffer in memory.items():
                self._context.set_tensor_address(name, buffer.address)
            if not self._context.execute_async_v3(self._device.stream):
                raise MissingEnvironmentError(
                    f"TensorRT does not run the engine: {self._talk.last_words()}",
                    where=self._record.plan,
                )
            self._device.synchronize()
            wanted = list(infos) if outputs is None else outputs
            return {
                name: memory[name].read(shapes[name], np.dtype(infos[name].dtype))
                for name in wanted
            }

    def _take_profile(self, given: Mapping[str, Array]) -> None:
        for number, profile in enumerate(self._record.profiles):
            if _fits(profile, given):
                self._context.set_optimization_profile_async(number, self._device.stream)
                return
        sizes = ", ".join(f"{name} {list(array.shape)}" for name, array in given.items())
        raise UsageError(
            f"no profile of the engine has room for {sizes}",
            where=self._record.plan,
            hint="build it with a larger --max-batch, --max-tokens or --max-image-tokens",
        )

    def close(self) -> None:
        """Free the engine."""
        self._context = self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def engine_for(bundle: Bundle, component: str) -> EngineRecord:
    """The engine of a component for the GPU that is here, or ``MissingEnvironmentError``."""
    require(_flavour(bundle))
    gpu = find_gpu()
    if not isinstance(gpu, Gpu):
        raise MissingEnvironmentError(
            gpu, where="this machine", hint="run this where there is a GPU"
        )
    engines = [each for each in bundle.manifest.engines if each.component == component]
    for engine in engines:
        if engine.sm == gpu.sm:
            return engine
    built = ", ".join(str(each.sm) for each in engines) or "no SM"
    raise MissingEnvironmentError(
        f"the GPU here is of SM {gpu.sm}, the engines of {component!r} are for {built}",
        where=str(bundle.path),
        hint=f"moe-export build {bundle.path}",
    )


def _require_trust(record: EngineRecord) -> None:
    """Refuse to load a library out of a plan unless the environment says so."""
    if os.environ.get(_TRUST) != "1":
        raise UnsafeInputError(
            "the engine holds a native library, which would run in this process",
            where=record.plan,
            hint=f"set {_TRUST}=1 for a bundle whose maker you trust, or build it without"
            " --embed-plugins",
        )


def _flavour(bundle: Bundle) -> Flavour:
    flavour = flavour_of(bundle.manifest.target)
    if flavour is None:
        raise UsageError(f"a bundle for {bundle.manifest.target!r} has no engines")
    return flavour


def _tensorrt(flavour: Flavour, record: EngineRecord) -> ModuleType:
    """TensorRT with the engine's plugins."""
    trt = importlib.import_module(flavour.module)
    if record.plugins_sha256 is None or record.embeds_plugins:
        return trt
    library = plugin_library()
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    if digest != record.plugins_sha256:
        raise UnsafeInputError(
            f"the plugin library is {digest}, the engine was built with {record.plugins_sha256}",
            where=str(library),
            hint="build the engine again, or install the moe-export that built it",
        )
    if (flavour.module, digest) not in _CREATED:
        registry: Any = trt.get_plugin_registry()
        registry.load_library(str(library))
        _CREATED.add((flavour.module, digest))
    return trt


def _talk(trt: Any) -> Any:
    class Talk(trt.ILogger):  # type: ignore[misc]
        """Keeps the last error, where TensorRT's own logger writes to standard output."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.error = ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.error = message

        def last_words(self) -> str:
            return self.error.strip().partition("\n")[0] or "it gives no reason"

    return Talk()


def _fits(profile: Mapping[str, Shapes], given: Mapping[str, Array]) -> bool:
    return all(
        low <= size <= high
        for name, (least, _, most) in profile.items()
        for low, size, high in zip(least, given[name].shape, most, strict=True)
    )


def _nbytes(info: TensorInfo, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(info.dtype).itemsize
