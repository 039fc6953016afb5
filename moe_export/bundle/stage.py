"""The stage that writes a model of one target to disk."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import moe_export
from moe_export.bundle.disk import sync_tree, write_file
from moe_export.bundle.graphs import graph_to_bytes, signature
from moe_export.bundle.weights import write_weights
from moe_export.forms import Component, TargetModel
from moe_export.manifest import (
    FILE_NAME,
    ComponentRecord,
    FileRecord,
    Manifest,
    OpSet,
    Tool,
    check_path,
)
from moe_export.moe.schema import DOMAIN, VERSION
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.golden import golden_to_bytes

_GOLDEN = "golden/golden.safetensors"
_PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript")
# Folders and files that the format itself names.
_RESERVED = ("onnx", "engines", "plugins", "golden", "reports", FILE_NAME)


def bundle(model: TargetModel, place: Path) -> Bundle:
    """Write ``model`` into the empty folder ``place`` and open what was written.

    Weights are read here, one at a time; nothing else of the model's size is in memory.  All files
    are synced; ``staging`` and ``publish`` make the folder appear under its name.  Equal models
    give equal bytes.  Raises ``MemoryBudgetError`` for a full disk, ``ValueError`` where the model
    contradicts itself.
    """
    if any(place.iterdir()):
        raise ValueError(f"{place} is not empty")
    _check_assets(model.portable.assets)
    files: dict[str, FileRecord] = {}
    components = {
        name: _write_component(model, name, place, files) for name in sorted(model.components)
    }
    files[_GOLDEN] = write_file(place, _GOLDEN, golden_to_bytes(model.portable.golden))
    for name, content in sorted(model.portable.assets.items()):
        files[name] = write_file(place, name, content)
    manifest = _manifest(model, components, files)
    write_file(place, FILE_NAME, manifest.to_json().encode())
    sync_tree(place)
    return Bundle.open(place)


def _check_assets(assets: Mapping[str, bytes]) -> None:
    for name in assets:
        if check_path(name).partition("/")[0].casefold() in _RESERVED:
            raise ValueError(f"asset {name!r} has a name that the bundle format uses")


def _write_component(
    model: TargetModel, name: str, place: Path, files: dict[str, FileRecord]
) -> ComponentRecord:
    component = model.components[name]
    graphs = {
        check_path(f"onnx/{name}.onnx"): component.graph,
        f"onnx/{name}.probe.onnx": model.probe_graphs[name],
        f"onnx/{name}.experts.onnx": model.expert_graphs[name],
    }
    _check_used(component)
    data = f"onnx/{name}.onnx.data"
    files[data], extents = write_weights(component.weights, place / data)
    for path, graph in graphs.items():
        content = graph_to_bytes(graph, component.weights, extents, f"{name}.onnx.data")
        files[path] = write_file(place, path, content)
    main, probe, experts = graphs
    return ComponentRecord(
        graph=main,
        probe_graph=probe,
        expert_graph=experts,
        data=data,
        inputs=signature(component.graph.graph.inputs),
        outputs=signature(component.graph.graph.outputs),
        probes=component.probes,
        dense=component.dense,
        in_place=component.in_place,
    )


def _check_used(component: Component) -> None:
    """A weight that no graph reads would be shipped for nothing, or is missing where it counts."""
    unread = component.weights.keys() - component.graph.graph.initializers.keys()
    if unread:
        raise ValueError(f"weights that the graph does not use: {sorted(unread)}")


def _manifest(
    model: TargetModel,
    components: Mapping[str, ComponentRecord],
    files: Mapping[str, FileRecord],
) -> Manifest:
    portable = model.portable
    return Manifest(
        tool=Tool(name="moe-export", version=moe_export.__version__),
        versions=_versions(),
        source=portable.source,
        target=model.target,
        kernels=model.kernels,
        precision=portable.precision,
        dense_precision=portable.dense_precision,
        rounding=portable.rounding,
        ops=OpSet(domain=DOMAIN, version=VERSION),
        components=components,
        blocks=portable.blocks,
        unused=portable.unused,
        functions=model.functions,
        parameters=portable.parameters,
        assets=tuple(sorted(portable.assets)),
        golden=_GOLDEN,
        verdict="not validated",
        files=files,
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # a bundle can be made of graphs that were captured elsewhere
    return found
