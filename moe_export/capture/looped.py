"""Blocks that run several times in one run of a model: names for what is watched in each pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import onnx_ir as ir

from moe_export.capture.repeats import PROBE
from moe_export.errors import CaptureError
from moe_export.forms import Golden, pass_name
from moe_export.moe.schema import DOMAIN


def name_passes(graph: ir.Model) -> None:
    """Give what is watched in a later pass over a block a name of its own, as ``Pass`` has it.

    *Requires* nodes in the order in which the model runs them.  *Ensures* that no two probes have
    one name, and that those of first passes, the only ones of most blocks, keep theirs.
    """
    passes: Counter[str] = Counter()
    for node in graph.graph:
        if node.op_type != PROBE or node.domain != DOMAIN:
            continue
        label = node.attributes["name"].as_string()
        passes[label] += 1
        block, _, role = label.rpartition("/")
        name = f"{pass_name(block, passes[label])}/{role}"
        node.attributes.add(ir.AttrString("name", name))


def require_these_passes(golden: Golden, layers: Collection[str]) -> None:
    """Refuse a block that runs more or less often in a golden case than in the graph.

    Raises ``CaptureError``: a graph has one number of passes for inputs of all sizes.
    """
    for case in golden.cases:
        odd = sorted(case.layers.keys() ^ set(layers))
        if odd:
            raise CaptureError(
                "a block of experts runs another number of times on inputs of other sizes than "
                f"the example's: case {case.name!r}",
                where=odd[0],
                hint="pass dynamic_shapes with the axes that really vary",
            )
