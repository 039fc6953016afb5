"""The flavours of TensorRT: one code path, and the module and library that each imports.

``trt-rtx`` is complete in its Python package and builds for GPUs that are not here.  ``trt`` needs
the ``tensorrt`` libraries and the GPU that it builds for.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from moe_export.errors import MissingEnvironmentError


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """A TensorRT, by the target that it serves."""

    target: str
    title: str
    module: str
    libraries: str
    """The package that has the shared libraries."""

    extra: str
    needs_gpu: bool
    """Whether an engine is only built where its GPU is."""

    alias: tuple[str, str] | None = None
    """A library by the name under which another one looks for it, and by the name it has."""


FLAVOURS: Mapping[str, Flavour] = {
    each.target: each
    for each in (
        Flavour(
            target="trt-rtx",
            title="TensorRT-RTX",
            module="tensorrt_rtx",
            libraries="tensorrt_rtx_libs",
            extra="trt-rtx",
            needs_gpu=False,
            # The ONNX parser opens the first at a plugin's node, ends the process where it is not
            # there, and the package has the second alone.
            alias=("libtensorrt_rtx.so", "libtensorrt_rtx.so.1"),
        ),
        Flavour(
            target="trt",
            title="TensorRT",
            module="tensorrt",
            libraries="tensorrt_libs",
            extra="trt",
            needs_gpu=True,
        ),
    )
}


def flavour_of(target: str) -> Flavour | None:
    """The TensorRT of a target, if it runs on one."""
    return FLAVOURS.get(target)


def require(flavour: Flavour) -> None:
    """Refuse with ``MissingEnvironmentError`` where its module or libraries are not installed."""
    for name in (flavour.module, flavour.libraries):
        if importlib.util.find_spec(name) is None:
            raise MissingEnvironmentError(
                f"{flavour.title} is not installed: there is no Python module {name}",
                where=f"target {flavour.target}",
                hint=f"pip install 'moe-export[{flavour.extra}]'",
            )


def installed_version(flavour: Flavour) -> str | None:
    """Of its Python package, by its own word; ``None`` where it is not there."""
    if importlib.util.find_spec(flavour.module) is None:
        return None
    for package in (flavour.module, f"{flavour.module}_cu13", f"{flavour.module}_cu12"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "of unknown version"


@contextmanager
def environment(flavour: Flavour) -> Iterator[dict[str, str]]:
    """Environment variables for a process that uses it, valid within the block."""
    made = dict(os.environ)
    if flavour.alias is None:
        yield made
        return
    wanted, found = flavour.alias
    spec = importlib.util.find_spec(flavour.libraries)
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    library = next((p for p in (Path(place) / found for place in places) if p.exists()), None)
    if library is None:
        raise MissingEnvironmentError(
            f"{flavour.title} has no {found}",
            where=f"the package {flavour.libraries}",
            hint=f"pip install --force-reinstall 'moe-export[{flavour.extra}]'",
        )
    with tempfile.TemporaryDirectory(prefix="moe-export-") as folder:
        (Path(folder) / wanted).symlink_to(library)
        paths = [folder, *filter(None, [made.get("LD_LIBRARY_PATH")])]
        yield {**made, "LD_LIBRARY_PATH": os.pathsep.join(paths)}
