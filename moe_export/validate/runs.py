"""Golden cases through the graphs that show their insides: as the bundle routes, or eager did."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from moe_export.forms import GoldenCase
from moe_export.runtime.session import Session

if TYPE_CHECKING:
    from types import TracebackType

    from moe_export.runtime.bundle import Bundle

Array = npt.NDArray[Any]
Probes = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Run:
    """What a bundle made of one golden case."""

    case: GoldenCase
    probes: Probes
    made: Mapping[str, Array]
    is_replay: bool = False
    """Whether the experts were told whom to serve, by what the eager model chose."""

    def rows(self, layer: str, role: str) -> Array:
        """``x``, ``y``, ``router_logits`` or ``experts_y`` of a layer as ``[T, ..]``."""
        made = self.made[self.probes[layer][role]]
        return np.reshape(made, (-1, made.shape[-1]))

    def chosen(self, layer: str) -> tuple[Array, Array]:
        """``topk_ids`` and ``topk_weights [T, K]`` that the layer's router decided on."""
        names = (
            f"routed/{layer}/{role}" if self.is_replay else self.probes[layer][role]
            for role in ("topk_ids", "topk_weights")
        )
        ids, weights = (self.made[name] for name in names)
        return ids, weights

    def served(self, layer: str) -> tuple[Array, Array]:
        """``topk_ids`` and ``topk_weights [T, K]`` that the layer's experts got."""
        if not self.is_replay:
            return self.chosen(layer)
        recorded = self.case.layers[layer]
        return recorded.topk_ids, recorded.topk_weights


class Cases:
    """Runs golden cases of one component.  The graph that replays is loaded when it is needed."""

    def __init__(self, bundle: Bundle, component: str) -> None:
        self._bundle, self._component = bundle, component
        self._probes = bundle.component(component).probes
        self._open = ExitStack()
        self._probe = self._session("probe")
        self._replay: Session | None = None

    def _session(self, graph: Any) -> Session:
        session = Session(self._bundle, component=self._component, graph=graph)
        return self._open.enter_context(session)

    def run(self, case: GoldenCase) -> Run:
        """As the bundle routes."""
        watched = [name for roles in self._probes.values() for name in roles.values()]
        outputs = list(dict.fromkeys([*case.outputs, *watched]))
        return Run(case, self._probes, self._probe.run(case.inputs, outputs=outputs))

    def replay(self, case: GoldenCase) -> Run:
        """As the eager model routed; each router decides nevertheless, and is not followed."""
        if self._replay is None:
            self._replay = self._session("replay")
        routing = {
            f"replay/{layer}/{role}": getattr(case.layers[layer], role)
            for layer in self._probes
            for role in ("topk_ids", "topk_weights")
        }
        made = self._replay.run({**case.inputs, **routing})
        return Run(case, self._probes, made, is_replay=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._open.close()
