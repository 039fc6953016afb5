"""What a validation tells beside its verdict on numbers: loads, logits, continuations, sizes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from moe_export.forms import Array, Golden, GoldenCase, LogitsParity, Report
from moe_export.validate.generation import compare_generation
from moe_export.validate.loads import Loads
from moe_export.validate.logits import compare_logits, output_of_logits
from moe_export.validate.routing import routing_noise

if TYPE_CHECKING:
    from moe_export.runtime.bundle import Bundle


class Behaviour:
    """Hears of each run of a validation, and puts what they come to into the report."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._loads = Loads(bundle.manifest.blocks)
        self._logits: list[LogitsParity] = []
        self._answers = {
            name: output_of_logits(bundle, name) for name in bundle.manifest.components
        }
        self._seconds: dict[str, float] = defaultdict(float)
        self._since = time.perf_counter()

    def add(self, case: GoldenCase, made: Mapping[str, Array]) -> None:
        """A case's run: ``made`` are outputs and probes by name, with the bundle's own routing."""
        record = self._bundle.component(case.component)
        for layer in record.layers:
            recorded = case.layers[layer]
            chosen = made[record.probes[layer]["topk_ids"]]
            self._loads.add(layer, recorded, chosen, routing_noise(recorded))
        answer = self._answers[case.component]
        if answer is not None and answer[0] in case.outputs:
            self._logits += compare_logits(case, *answer, made[answer[0]])

    def lap(self, step: str) -> None:
        """What was done since the last lap was this step."""
        now = time.perf_counter()
        self._seconds[step] += now - self._since
        self._since = now

    def told(self, report: Report, golden: Golden) -> Report:
        """The report with all of it, after the bundle went on from the recorded prompts."""
        generation = compare_generation(self._bundle, golden)
        self.lap("generation")
        return replace(
            report,
            loads=self._loads.loads(),
            conflicts=self._loads.conflicts(),
            logits=tuple(self._logits),
            generation=tuple(generation),
            nbytes=bytes_by_use(self._bundle),
            seconds=dict(self._seconds),
        )


def bytes_by_use(bundle: Bundle) -> dict[str, int]:
    """Of the files on disk: ``weights``, ``graphs``, ``golden``, ``engines`` and ``assets``.

    Reports are left out: they are what comes of this.
    """
    manifest = bundle.manifest
    uses = dict.fromkeys(manifest.assets, "assets") | {manifest.golden: "golden"}
    for component in manifest.components.values():
        uses |= dict.fromkeys(component.graphs, "graphs") | {component.data: "weights"}
    uses |= {engine.plan: "engines" for engine in manifest.engines}
    made: dict[str, int] = defaultdict(int)
    for path, use in uses.items():
        made[use] += manifest.files[path].bytes
    return dict(sorted(made.items()))
