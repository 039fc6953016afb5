"""Write a portable model in the ops that one target can run."""

from __future__ import annotations

from moe_export.errors import UnsupportedError
from moe_export.forms import PortableModel, TargetModel
from moe_export.lower import standard

_TARGETS = {"standard": standard.lower_component}


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
    )
