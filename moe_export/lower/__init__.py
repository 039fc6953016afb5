"""Write a portable model in the ops that one target can run."""

from __future__ import annotations

from moe_export.errors import UnsupportedError
from moe_export.forms import Device, KernelNeeds, PortableModel, TargetModel
from moe_export.lower import ort, ort_cuda, standard, trt
from moe_export.lower.once import store_once
from moe_export.lower.tables import read_in_panels
from moe_export.lower.watching import expert_graph, probe_graph, replay_graph

_TARGETS = {
    "standard": standard.lower_component,
    "ort": ort.lower_component,
    "trt": trt.lower_component,
    "trt-rtx": trt.lower_component,
}
_ON_GPU = {"ort": ort_cuda.lower_component}
"""Targets that run on a device of the user's choice, as they are on a GPU."""

COMPILED = frozenset(("trt", "trt-rtx"))
"""Targets that run engines, which are built of graphs of their own."""

_KERNELS: dict[str, KernelNeeds] = {"ort": ort.NEEDS}


def lower(model: PortableModel, target: str, device: Device = "cpu") -> TargetModel:
    """The model in the ops of ``target``; weights stay unread.  The portable model is left alone.

    ``device`` is where a target runs that has a choice.

    Raises ``UnsupportedError`` for a target this release does not build.
    """
    if target not in _TARGETS:
        raise UnsupportedError(
            f"target {target!r} is not built yet",
            where=f"--target {target}",
            hint=f"targets that are: {', '.join(_TARGETS)}",
        )
    lower_component = _TARGETS[target] if device == "cpu" else _ON_GPU[target]
    lowered = {name: lower_component(part) for name, part in model.components.items()}
    in_ops = {name: part.component for name, part in lowered.items()}
    components = store_once(read_in_panels(in_ops))
    is_compiled = target in COMPILED
    engines = {n: trt.engine_graph(part.graph) for n, part in components.items() if is_compiled}
    return TargetModel(
        target=target,
        portable=model,
        components=components,
        probe_graphs={name: probe_graph(part) for name, part in components.items()},
        expert_graphs={name: expert_graph(part) for name, part in components.items()},
        replay_graphs={name: replay_graph(part) for name, part in components.items()},
        functions={
            key: words for part in lowered.values() for key, words in part.functions.items()
        },
        engine_graphs=engines,
        plugins={name: trt.plugin_names(graph) for name, graph in engines.items()},
        kernels=kernels_of(target, device),
        device=device,
    )


def kernels_of(target: str, device: Device = "cpu") -> KernelNeeds | None:
    """What a bundle for ``target`` cannot run without, of the native library, if anything."""
    return _KERNELS.get(target) if device == "cpu" else None
