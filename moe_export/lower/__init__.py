"""Write a portable model in the ops that one target can run."""

from __future__ import annotations

from moe_export.errors import UnsupportedError
from moe_export.forms import KernelNeeds, PortableModel, TargetModel
from moe_export.lower import ort, standard

_TARGETS = {"standard": standard.lower_component, "ort": ort.lower_component}
_KERNELS: dict[str, KernelNeeds] = {"ort": ort.NEEDS}


def lower(model: PortableModel, target: str) -> TargetModel:
    """The model in the ops of ``target``; weights stay unread.  The portable model is left alone.

    Raises ``UnsupportedError`` for a target this release does not build.
    """
    if target not in _TARGETS:
        raise UnsupportedError(
            f"target {target!r} is not built yet",
            where=f"--target {target}",
            hint=f"targets that are: {', '.join(_TARGETS)}",
        )
    lowered = {name: _TARGETS[target](part) for name, part in model.components.items()}
    return TargetModel(
        target=target,
        portable=model,
        components={name: part.component for name, part in lowered.items()},
        probe_graphs={name: part.probe_graph for name, part in lowered.items()},
        expert_graphs={name: part.expert_graph for name, part in lowered.items()},
        functions={
            key: words for part in lowered.values() for key, words in part.functions.items()
        },
        kernels=kernels_of(target),
    )


def kernels_of(target: str) -> KernelNeeds | None:
    """What a bundle for ``target`` needs of the native library, if anything."""
    return _KERNELS.get(target)
