"""The reports in ``fixtures``: how they were made, and how to make them anew.

``python -m report.make_fixtures`` in ``tests`` exports a small Qwen3-VL with experts, validates it,
and adds what a validation may say besides.  Of ``passed.json`` tensors, routing, loads (the golden
tokens' own choices) and sizes are real.  ``failed.json`` is the same model in int4 with errors,
flips and words made up.  In both, which tokens are of an image, conflicts, continuations and times
are made up.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

import moe_export
from moe_export.forms import (
    Attribution,
    Candidate,
    Conflict,
    ExpertLoad,
    Flip,
    Generation,
    LogitsParity,
    Report,
    RoutingParity,
    TensorParity,
)
from moe_export.report.parity import to_json
from moe_export.runtime import Bundle
from moe_export.validate import validate
from pretrained_models import save_qwen3_vl_moe

FIXTURES = Path(__file__).parent / "fixtures"
EXPERTS = 16
BROKEN = "layers.3"


def passed(bundle: Bundle) -> Report:
    report = validate(bundle)
    chance = random.Random(5)
    cases = ("a photograph", "two photographs", "text alone")
    return replace(
        report,
        loads=tuple(loads(bundle)),
        conflicts=tuple(conflicts(bundle, chance)),
        logits=tuple(
            LogitsParity(
                case=case,
                modality=modality,
                positions=chance.randint(20, 90),
                mean_divergence=chance.uniform(1e-13, 1e-12),
                largest_divergence=chance.uniform(1e-12, 1e-11),
                same_top1=1.0,
            )
            for case in cases
            for modality in ("image", "text")
        ),
        generation=tuple(Generation(case=case, steps=32, agreed=32) for case in cases),
        nbytes=sizes(bundle),
        seconds={"golden tensors": 1.41, "engines": 0.0, "generation": 2.87},
    )


def failed(bundle: Bundle) -> Report:
    """From the fourth layer on the bundle is wrong, as a kernel would be."""
    report = passed(bundle)
    chance = random.Random(6)
    layers = list(dict.fromkeys(each.layer for each in report.routing))
    broken = next(layer for layer in layers if BROKEN in layer)
    behind = layers[layers.index(broken) :]
    return replace(
        report,
        tensors=tuple(
            beyond(tensor, chance)
            if any(tensor.name.startswith(f"{layer}/") for layer in behind)
            and tensor.name != f"{broken}/x"
            else tensor
            for tensor in report.tensors
        ),
        routing=tuple(
            flipped(each, chance) if each.layer in behind[1:] else each for each in report.routing
        ),
        attribution=(
            Attribution(
                case="example",
                component="decoder",
                cause="kernel",
                layer=broken,
                module=broken,
                source="modeling_qwen3_vl_moe.py:312",
                words="The graph in standard operators stays within its envelope at this layer, "
                "the kernels give 31 times the tolerance on the same rows.",
            ),
        ),
        generation=(
            *report.generation[:1],
            Generation(
                case="two photographs",
                steps=32,
                agreed=11,
                eager=tuple(
                    candidates((264, 84, 265, 101, 290), ("a", "T", "the", "e", "and"), chance)
                ),
                bundle=tuple(
                    candidates(
                        (84, 264, 101, 300, 265), ("T", "a", "e", "<|im_end|>", "the"), chance
                    )
                ),
                explained=False,
            ),
            *report.generation[2:],
        ),
        not_run={"CUDA kernels": "no GPU is here"},
    )


def loads(bundle: Bundle):
    """The choices of the golden tokens; the first third of each case is taken for an image."""
    chosen: dict[tuple[str, str], Counter[int]] = {}
    tokens: Counter[tuple[str, str]] = Counter()
    for case in bundle.golden().cases:
        for layer, recorded in case.layers.items():
            ids = np.asarray(recorded.topk_ids)
            middle = len(ids) // 3
            for modality, part in (("image", ids[:middle]), ("text", ids[middle:])):
                chosen.setdefault((layer, modality), Counter()).update(part.ravel().tolist())
                tokens[layer, modality] += len(part)
    for (layer, modality), counter in chosen.items():
        yield ExpertLoad(
            layer=layer,
            modality=modality,
            tokens=tokens[layer, modality],
            choices=tuple(counter[expert] for expert in range(EXPERTS)),
        )


def conflicts(bundle: Bundle, chance: random.Random):
    for layer in dict.fromkeys(name for case in bundle.golden().cases for name in case.layers):
        for chosen, runner_up in zip(
            chance.sample(range(8), 4), chance.sample(range(8, 16), 4), strict=True
        ):
            yield Conflict(
                layer=layer,
                chosen=chosen,
                runner_up=runner_up,
                tokens=chance.randint(1, 9),
                smallest_margin=chance.uniform(1e-7, 1e-5),
            )


def sizes(bundle: Bundle) -> dict[str, int]:
    kinds: Counter[str] = Counter()
    for path, record in bundle.manifest.files.items():
        kind = "weights" if path.endswith(".data") else path.partition("/")[0]
        kinds[{"onnx": "graphs"}.get(kind, kind if "/" in path else "other")] += record.bytes
    return dict(kinds)


def beyond(tensor: TensorParity, chance: random.Random) -> TensorParity:
    times = chance.uniform(4, 60) * tensor.tolerance / tensor.max_error
    return replace(
        tensor,
        max_error=tensor.max_error * times,
        relative_error=tensor.relative_error * times,
        passed=False,
        rewritten_error=tensor.eager_error * chance.uniform(0.7, 1.4),
        replayed_error=tensor.max_error * times * 0.8,
    )


def flipped(each: RoutingParity, chance: random.Random) -> RoutingParity:
    flips = []
    for token in sorted(chance.sample(range(each.tokens), min(each.tokens, 3))):
        noise, margin = 2e-5, 10 ** chance.uniform(-6.5, -2)
        eager = tuple(chance.sample(range(EXPERTS), 2))
        bundle = (eager[0], (eager[1] + 1) % EXPERTS)
        explained = margin <= noise
        flips.append(
            Flip(
                token=token,
                eager=eager,
                bundle=bundle,
                margin=margin,
                noise=noise,
                explained=explained,
            )
        )
    return replace(
        each,
        agreement=1 - len(flips) / each.tokens,
        flips=tuple(flips),
        passed=all(flip.explained for flip in flips),
    )


def candidates(tokens, texts, chance: random.Random):
    left = 1.0
    for token, text in zip(tokens, texts, strict=True):
        probability = left * chance.uniform(0.3, 0.5)
        left -= probability
        yield Candidate(token=token, text=text, probability=probability)


def make() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "tiny-vl"
        save_qwen3_vl_moe(source, num_hidden_layers=6, num_experts=EXPERTS)
        for name, precision, made in (("passed", "f32", passed), ("failed", "int4", failed)):
            bundle = moe_export.export(
                source, output=Path(folder) / f"{precision}.moe", precision=precision
            )
            (FIXTURES / f"{name}.json").write_text(to_json(made(bundle)))


if __name__ == "__main__":
    make()
