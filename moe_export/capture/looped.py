"""Names for what is watched in blocks that run several times in one run of a model."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from moe_export.capture.repeats import PROBE
from moe_export.forms import pass_name
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
