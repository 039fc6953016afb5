"""Inputs that a user brings for a bundle: arrays by name, or pictures, each checked at the door."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from moe_export.dialogue import FILE_NAME
from moe_export.errors import MoeExportError, UsageError
from moe_export.forms import Array, Asked, Given
from moe_export.runtime.bundle import Bundle
from moe_export.runtime.converse import Conversation
from moe_export.runtime.session import check_inputs

_ABOUT = "What do you see?"


def given_arrays(bundle: Bundle, cases: Mapping[str, Mapping[str, Array]]) -> Given:
    """Arrays by what to call a case and by input: each case goes to the component that takes it.

    Raises ``UsageError`` naming the case for names, dtypes or shapes that no component takes.
    """
    made: dict[str, dict[str, Mapping[str, Array]]] = defaultdict(dict)
    for case, arrays in cases.items():
        try:
            component = bundle.component_taking(arrays)
            made[component][case] = check_inputs(arrays, bundle.component(component).inputs)
        except MoeExportError as error:
            error.where = f"the inputs {case!r}"
            raise
    return Given(arrays=dict(made))


def given_images(bundle: Bundle, images: Iterable[Path]) -> Given:
    """A question about each picture, made ready as the bundle's ``dialogue.json`` says.

    Raises ``UsageError`` for a bundle that is shown no images, ``UnsupportedError`` where images
    are not made ready as its model takes them, and ``UnsafeInputError`` for a file that is none.
    """
    if FILE_NAME not in bundle.manifest.assets:
        raise UsageError(
            f"the bundle has no {FILE_NAME}, so nobody knows how its model is shown an image",
            where="--images",
            hint="give it arrays with --inputs",
        )
    conversation = Conversation(bundle)
    asked: dict[str, Asked] = {}
    for image in images:
        seen = conversation.see(image)
        asked[image.name] = conversation.asking.ask(_ABOUT, [seen])
    return Given(asked=asked)
