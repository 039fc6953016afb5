"""How far a family comes: its blocks proven, its parts proven, a bundle, and that bundle's answers.

A bundle is held against Transformers' own ``generate`` by token ids, and its logits for the prompt
against the whole model's.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import moe_export
from moe_export.bundle import bundle
from moe_export.bundle.staging import publish, staging
from moe_export.capture import capture
from moe_export.errors import MoeExportError
from moe_export.forms import Array, MarkedModel
from moe_export.load import load
from moe_export.load.pretrained.assemble import kinds_of_tokens
from moe_export.load.pretrained.examples import Examples, Inputs
from moe_export.load.pretrained.mended import mend
from moe_export.lower import lower
from moe_export.moe.families import ENCLOSING, FAMILIES, Family, Packed
from moe_export.rewrite import rewrite
from moe_export.runtime import Session
from moe_export.runtime.cache import Cache
from moe_export.runtime.greedy import greedy
from moe_export.runtime.positions import mrope_positions, plain_positions
from moe_export.spec import export_spec
from moe_export.validate import validate

from .catalogue import Case

STAGES = ("proven", "recognised", "exported", "prefill", "decode", "standard")

ANSWER_TOKENS = 12

# What validation allows a float32 graph to be off, and then some: two libraries' sums through all
# layers, over the largest logit.
PREFILL_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Progress:
    """The stages that a family has passed, and what stopped it."""

    passed: tuple[str, ...]
    reason: str = ""


def progress(case: Case, folder: Path) -> Progress:
    """Run the stages one after the other until one fails."""
    passed: list[str] = []
    try:
        model = case.save(folder / "model")
        marked = rewrite(load(export_spec(folder / "model")))
        passed.append("proven")
        require_recognised(marked)
        passed.append("recognised")
        moe_export.export(folder / "model", output=folder / "bundle")
        passed.append("exported")
        told = told_by(case, model)
        mine, logits = answer(case, folder / "bundle", told)
        require(difference(logits, told.logits) <= PREFILL_TOLERANCE, "the logits differ")
        passed.append("prefill")
        require(mine == told.tokens, f"{mine} instead of {told.tokens}")
        passed.append("decode")
        export_marked(marked, "standard", folder / "standard")
        mine, _ = answer(case, folder / "standard", told)
        require(mine == told.tokens, f"target standard: {mine} instead of {told.tokens}")
        passed.append("standard")
    except MoeExportError as error:
        return Progress(tuple(passed), str(error).splitlines()[0])
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        return Progress(tuple(passed), f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return Progress(tuple(passed))


def export_marked(marked: MarkedModel, target: str, output: Path) -> None:
    """What is left of an export once the blocks are proven; raises where validation fails."""
    lowered = lower(capture(marked), target)
    with staging(output, force=False) as place:
        report = validate(bundle(lowered, place))
        require(report.passed, f"target {target}: the bundle is not the model")
        publish(place, output, force=False)


def require(fact: object, otherwise: str) -> None:
    if not fact:
        raise MoeExportError(otherwise)


def require_recognised(marked: MarkedModel) -> None:
    """Every block of experts is proven, and there is one."""
    blocks = [block for part in marked.parts for block in part.blocks]
    unproven = [block for block in blocks if block.status != "proven"]
    require(blocks, "no block of experts was found")
    require(not unproven, unproven[0].reason or "" if unproven else "")


@dataclass(frozen=True)
class Told:
    """What the source itself says: to which inputs, the prompt's last logits, and the answer."""

    inputs: Inputs
    """As the bundle takes them."""

    logits: Array
    tokens: list[int]


def told_by(case: Case, model: Any) -> Told:
    """Ask the model with Transformers: a prompt of text, with two images where it sees."""
    mend(model)
    family = family_of(case)
    examples = Examples(model, None if family is None else family.images)
    if family is None:
        ids, seen = examples.tokens(1, 15), {}
        more: Inputs = {}
    else:
        shapes = [(2, 3), (1, 2)]
        ids, seen = examples.prompt(shapes, 4), examples.seen(shapes)
        more = {**examples.as_source(seen), **kinds_of_tokens(model, ids)}
    more |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    model.generation_config.eos_token_id = None  # an answer of random tokens has no end
    with torch.no_grad():
        logits = model(**more).logits[0, -1].numpy()
        tokens = model.generate(
            **more,
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            pad_token_id=0,
        )
    return Told({"input_ids": ids, **seen}, logits, tokens[0, ids.shape[1] :].tolist())


def answer(case: Case, bundle: Path, told: Told) -> tuple[list[int], Array]:
    """The bundle's greedy answer to the same inputs, and its logits for the prompt."""
    seen = {name: x.numpy() for name, x in told.inputs.items()}
    ids = seen.pop("input_ids")
    embed, decoder = (Session(bundle, component=name) for name in ("embed", "decoder"))
    features = Session(bundle, component="vision").run(seen) if seen else {}
    positions = _positions(case, ids, seen)
    steps = greedy(embed, Cache(decoder), ids=ids, features=features, positions=positions)
    made = [(token, logits.copy()) for token, logits in islice(steps, ANSWER_TOKENS)]
    return [token for token, _ in made], made[0][1]


def difference(made: Array, expected: Array) -> float:
    """The largest, over the largest expected."""
    return float(np.abs(made - expected).max() / np.abs(expected).max())


def _positions(case: Case, prompt: Array, seen: dict[str, Array]) -> Array:
    family = family_of(case)
    if family is None or family.positions == "plain":
        return plain_positions(0, prompt.shape[1])
    assert isinstance(family.images, Packed)
    grids, newline = list(seen["image_grid_thw"]), family.images.newline
    return mrope_positions(prompt[0].tolist(), _image_token(case), grids, 2, newline=newline)


def family_of(case: Case) -> Family | None:
    """The record that the case's model is exported by."""
    enclosing = ENCLOSING.get(case.family)
    return FAMILIES.get(case.family if enclosing is None else enclosing.family)


def _image_token(case: Case) -> int:
    from .configurations import VISION_MODELS

    enclosing = ENCLOSING.get(case.family)
    name = case.family if enclosing is None else enclosing.family
    return int(VISION_MODELS[name]["image_token_id"])
