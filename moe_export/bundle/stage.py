"""The stage that writes a model of one target to disk."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import moe_export
from moe_export.bundle.disk import sync_tree, write_file
from moe_export.bundle.graphs import graph_to_bytes, signature
from moe_export.bundle.weights import Extent, nbytes, write_weights
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
    extents = _write_weights(model, place, files)
    components = {
        name: _write_graphs(model, name, place, files, extents) for name in sorted(model.components)
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


Extents = Mapping[str, Mapping[str, Extent]]


def _write_weights(model: TargetModel, place: Path, files: dict[str, FileRecord]) -> Extents:
    """Write what each component stores; by component, where all of its weights lie."""
    extents: dict[str, dict[str, Extent]] = {}
    for name, component in sorted(model.components.items()):
        _check_used(component)
        stored = {k: w for k, w in component.weights.items() if k not in component.borrowed}
        data = check_path(_data(name))
        files[data], extents[name] = write_weights(stored, place / data)
    for name, component in model.components.items():
        for key, at in component.borrowed.items():
            length = nbytes(component.weights[key])
            extents[name][key] = extents[at.component][at.weight].part(at.start, length)
    return extents


def _data(name: str) -> str:
    return f"onnx/{name}.onnx.data"


def _write_graphs(
    model: TargetModel, name: str, place: Path, files: dict[str, FileRecord], extents: Extents
) -> ComponentRecord:
    component = model.components[name]
    graphs = {
        check_path(f"onnx/{name}.onnx"): component.graph,
        f"onnx/{name}.probe.onnx": model.probe_graphs[name],
        f"onnx/{name}.experts.onnx": model.expert_graphs[name],
        f"onnx/{name}.replay.onnx": model.replay_graphs[name],
    }
    engine_graph = model.engine_graphs.get(name)
    engine_path = None if engine_graph is None else f"onnx/{name}.engine.onnx"
    if engine_graph is not None and engine_path is not None:
        graphs[engine_path] = engine_graph
    for path, graph in graphs.items():
        content = graph_to_bytes(graph, component.weights, extents[name])
        files[path] = write_file(place, path, content)
    main, probe, experts, replay, *_ = graphs
    return ComponentRecord(
        graph=main,
        probe_graph=probe,
        expert_graph=experts,
        replay_graph=replay,
        engine_graph=engine_path,
        plugins=model.plugins.get(name, ()),
        data=_data(name),
        also_reads=tuple(sorted({_data(at.component) for at in component.borrowed.values()})),
        inputs=signature(component.graph.graph.inputs),
        outputs=signature(component.graph.graph.outputs),
        probes=component.probes,
        layers=tuple(component.probes),
        modules=component.modules,
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
        device=model.device,
        precision=portable.precision,
        dense_precision=portable.dense_precision,
        rounding=portable.rounding,
        ops=OpSet(domain=DOMAIN, version=VERSION),
        components=components,
        engines=(),
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
