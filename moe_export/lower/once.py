"""Weights that several components read are stored once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

from moe_export.forms import Component, Place


def store_once(components: Mapping[str, Component]) -> dict[str, Component]:
    """The components, where a weight that an earlier one stores is borrowed from it.

    *Requires* that weights of equal origins have equal bytes.  *Ensures* that what is stored
    has no equal in another component, and that graphs and weights are as they were.  Components
    come in the order of their names.  A second run does nothing.
    """
    made: dict[str, Component] = {}
    first: dict[Hashable, Place] = {}
    for name, component in sorted(components.items()):
        borrowed = dict(component.borrowed)
        for key, weight in sorted(component.weights.items()):
            if weight.origin is None or key in borrowed:
                continue
            what = (weight.origin, weight.dtype, weight.shape)
            place = first.setdefault(what, Place(component=name, weight=key))
            if place.component != name:
                borrowed[key] = place
        made[name] = replace(component, borrowed=borrowed)
    return made
