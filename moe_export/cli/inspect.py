"""``moe-export inspect``: the MoE card of a model or a bundle."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_export.cli import options
from moe_export.cli.console import Console

if TYPE_CHECKING:
    from moe_export.card import BundleFacts, Card
    from moe_export.forms import BlockRecord, Proof

_EPILOG = """\
\b
Examples:
  moe-export inspect model.pt
  moe-export inspect model.moe --json
"""


@click.command(epilog=_EPILOG, short_help="Show the MoE card of a model or a bundle.")
@click.argument("model", metavar="MODEL|BUNDLE")
@options.python_path
@options.trust_pickle
@options.as_json
@options.verbose
@click.pass_obj
def inspect(
    console: Console,
    /,
    *,
    model: str,
    python_path: tuple[str, ...],
    trust_pickle: bool,
    as_json: bool,
) -> None:
    """Show the MoE card: layers, experts, routing, how each was proven, and what it weighs.

    Of a model its blocks are recognised and proven first, as an export would; nothing is written.
    A bundle's card is read from its manifest, after every file was checked.
    """
    from moe_export.card import bundle_card

    if _is_bundle(model):
        from moe_export.runtime.bundle import Bundle

        card = bundle_card(Bundle.open(model))
    else:
        card = _card_of_model(console, model, python_path, trust_pickle=trust_pickle)
    if as_json:
        console.json(_facts(card))
    else:
        _tell(console, card)


def _is_bundle(model: str) -> bool:
    # A folder with a config.json is a Transformers model, which is for ``load`` to refuse.
    folder = Path(model)
    return folder.is_dir() and (
        os.path.lexists(folder / "moe_export.json") or not (folder / "config.json").is_file()
    )


def _card_of_model(
    console: Console, model: str, python_path: tuple[str, ...], *, trust_pickle: bool
) -> Card:
    from moe_export.spec import export_spec

    spec = export_spec(model, python_path=python_path, trust_pickle=trust_pickle)
    from moe_export.card import model_card
    from moe_export.load import load
    from moe_export.rewrite import rewrite

    with console.stages(["load", "rewrite"]) as stages:
        stages("load")
        loaded = load(spec)
        stages("rewrite")
        return model_card(rewrite(loaded))


def _facts(card: Card) -> dict[str, Any]:
    from moe_export.strict_json import encode

    return {
        **encode(card),
        "active_parameters": card.active_parameters,
        "active_is_bound": card.active_is_bound,
        "blocks": [{**encode(block), "describe": _described(block)} for block in card.blocks],
    }


def _described(block: BlockRecord) -> dict[str, str] | None:
    if block.layer is None:
        return None
    router, experts = block.layer.router, block.layer.experts
    return {"router": router.describe(), "experts": experts.describe()}


def _tell(console: Console, card: Card) -> None:
    from moe_export.report.figures import count, share, size

    at_most = "at most " if card.active_is_bound else ""
    active = card.active_parameters
    part = share(active / card.parameters) if card.parameters else "none"
    console.out(f"{card.source.description}")
    rows = [
        ("MoE layers", _layers_words(card)),
        ("parameters", f"{count(card.parameters)}, {at_most}{count(active)} active ({part})"),
        ("weights", size(card.weight_bytes)),
        ("fingerprint", card.source.fingerprint),
    ]
    console.table(rows)
    for path, block in _folded(card.blocks):
        console.out()
        console.out(f"{path}: {block.kind}")
        console.table(_block_rows(block))
    if card.bundle is not None:
        _tell_bundle(console, card.bundle)


def _layers_words(card: Card) -> str:
    from moe_export.report.figures import plural

    left = len(card.blocks) - len(card.layers)
    words = str(len(card.layers))
    return words + (f", and {plural(left, 'block')} that could not be proven" if left else "")


def _folded(blocks: tuple[BlockRecord, ...]) -> Iterator[tuple[str, BlockRecord]]:
    """Runs of blocks that differ in number and in their proof's residual alone, as one each."""
    for _, run in groupby(blocks, key=_likeness):
        alike = list(run)
        first, last = alike[0], alike[-1]
        if len(alike) == 1:
            yield first.path or "the model", first
            continue
        proofs = [block.proof for block in alike if block.proof is not None]
        nearest = max(proofs, key=_used, default=None)
        yield f"{first.path} … {last.path} ({len(alike)} alike)", replace(first, proof=nearest)


def _used(proof: Proof) -> float:
    """The part of the tolerance that the residual takes; zero outputs have no tolerance."""
    return proof.max_error / proof.tolerance if proof.tolerance else 0.0


def _likeness(block: BlockRecord) -> tuple[Any, ...]:
    proof = block.proof and (block.proof.cases, block.proof.tokens, block.proof.experts_reached)
    path = re.sub(r"\d+", "#", block.path)
    facts = (block.kind, block.status, block.found_by, block.layer, block.reason)
    return (path, *facts, proof)


def _block_rows(block: BlockRecord) -> list[tuple[str, str]]:
    if block.layer is None:
        return [("not proven", str(block.reason)), ("found by", block.found_by)]
    from moe_export.report.figures import count

    router, experts = block.layer.router, block.layer.experts
    rows = [
        ("router", f"{router.describe()}; {router.num_experts} experts, top_k {router.top_k}"),
        (
            "experts",
            f"{experts.describe()}, {count(experts.parameters_per_expert)} parameters each",
        ),
    ]
    if router.kept:
        rows.append(("kept since", str(block.reason)))
    if block.layer.identity_experts:
        rows.append(("beside", f"{block.layer.identity_experts} that give back the row they get"))
    if block.layer.has_shared_path:
        rows.append(("shared", f"{count(block.layer.shared_parameters)} parameters"))
    if block.proof is not None:
        rows.append(("proven", _proof_words(block.proof)))
    return [*rows, ("found by", block.found_by)]


def _proof_words(proof: Proof) -> str:
    from moe_export.report.figures import error, plural

    return (
        f"error {error(proof.max_error)} of {error(proof.tolerance)} allowed in float64, "
        f"{plural(len(proof.cases), 'case')}, {proof.tokens} tokens, "
        f"{plural(proof.experts_reached, 'expert')} reached"
        + (f", shown on {proof.shown_on}" if proof.shown_on else "")
        + (f", with {proof.intermediate_size} rows an expert" if proof.intermediate_size else "")
    )


def _tell_bundle(console: Console, bundle: BundleFacts) -> None:
    from moe_export.report.figures import columns, size

    console.out()
    rows = [
        (
            "target",
            bundle.target if bundle.device == "cpu" else f"{bundle.target} on {bundle.device}",
        ),
        ("precision", bundle.precision),
        ("dense", bundle.dense_precision),
    ]
    if bundle.rounding is not None:
        from moe_export.report.text import rounding

        rows.append(("rounding", rounding(bundle.rounding)))
    rows += [("verdict", bundle.verdict), ("made by", bundle.tool)]
    for name, component in bundle.components.items():
        rows += [(f"{name} takes", str(tensor)) for tensor in component.inputs]
        rows += [(f"{name} gives", str(tensor)) for tensor in component.outputs]
    console.table([("digest", bundle.digest), *rows])
    console.out()
    console.out(f"files, {size(bundle.bytes)}")
    for line in columns([(path, size(length)) for path, length in bundle.files.items()]):
        console.out(line)
    _tell_unused(console, bundle.unused)


def _tell_unused(console: Console, unused: Mapping[str, str]) -> None:
    console.out()
    if not unused:
        console.out("unused tensors: none")
        return
    console.out("unused tensors")
    console.table(list(unused.items()))
