"""Golden cases through the graphs that show their insides: as the bundle routes, or eager did."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from moe_export.forms import GoldenCase
from moe_export.runtime.session import Session
from moe_export.validate.labels import labels_of

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

    labels: Mapping[str, Array] = field(default_factory=dict)
    """By layer whose experts have other numbers in the bundle: see ``labels_of``."""

    def rows(self, layer: str, role: str) -> Array:
        """``x``, ``y``, ``experts_y`` or ``router_logits`` of a layer ``[T, ..]``, as they are."""
        made = self.made[self.probes[layer][role]]
        return np.reshape(made, (-1, made.shape[-1]))

    def router_logits(self, layer: str) -> Array:
        """``[T, E]`` in the eager model's order of experts."""
        logits = self.rows(layer, "router_logits")
        return logits[:, self.labels[layer]] if layer in self.labels else logits

    def chosen(self, layer: str) -> tuple[Array, Array]:
        """What the layer's router decided on, by the eager model's numbers of experts."""
        ids, weights = self.decided(layer)
        if layer in self.labels:
            ids = np.argsort(self.labels[layer])[ids].astype(ids.dtype)
        return ids, weights

    def decided(self, layer: str) -> tuple[Array, Array]:
        """``topk_ids`` and ``topk_weights [T, K]`` as the layer's router gave them."""
        names = (
            f"routed/{layer}/{role}" if self.is_replay else self.probes[layer][role]
            for role in ("topk_ids", "topk_weights")
        )
        ids, weights = (self.made[name] for name in names)
        return ids, weights

    def served(self, layer: str) -> tuple[Array, Array]:
        """``topk_ids`` and ``topk_weights [T, K]`` that the layer's experts got."""
        return self.given(layer) if self.is_replay else self.decided(layer)

    def given(self, layer: str) -> tuple[Array, Array]:
        """The eager model's choice, by the bundle's numbers of experts, and its weights.

        These are the reference's, which go with the numbers that follow from the routing before.
        """
        recorded = self.case.layers[layer]
        ids = recorded.topk_ids
        if layer in self.labels:
            ids = self.labels[layer][ids].astype(ids.dtype)
        return ids, recorded.topk_weights_reference.astype(np.float32)


class Cases:
    """Runs golden cases of one component.  The graph that replays is loaded when it is needed."""

    def __init__(self, bundle: Bundle, component: str) -> None:
        self._bundle, self._component = bundle, component
        self._probes = bundle.component(component).probes
        self._open = ExitStack()
        self._probe = self._session("probe")
        self._replay: Session | None = None
        self.labels: dict[str, Array] = {}
        """By layer, of those whose experts were found under other numbers."""

    def _session(self, graph: Any) -> Session:
        session = Session(self._bundle, component=self._component, graph=graph)
        return self._open.enter_context(session)

    def run(self, case: GoldenCase) -> Run:
        """As the bundle routes."""
        watched = [name for roles in self._probes.values() for name in roles.values()]
        outputs = list(dict.fromkeys([*case.outputs, *watched]))
        run = Run(case, self._probes, self._probe.run(case.inputs, outputs=outputs))
        found = {x: labels_of(case.layers[x], run.router_logits(x)) for x in case.layers}
        self.labels |= {x: labels for x, labels in found.items() if labels is not None}
        return replace(run, labels=dict(self.labels))

    def replay(self, run: Run) -> Run:
        """A case as eager routed it; each router decides all the same and is not followed."""
        if self._replay is None:
            self._replay = self._session("replay")
        routing = {
            f"replay/{layer}/{role}": array
            for layer in self._probes
            for role, array in zip(("topk_ids", "topk_weights"), run.given(layer), strict=True)
        }
        made = self._replay.run({**run.case.inputs, **routing})
        return replace(run, made=made, is_replay=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._open.close()
