"""The demo's table: what came out, for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from digits_vlm.evaluate import held_out_questions
from digits_vlm.kept import Made
from digits_vlm.measure import BATCH_SIZE, Measured


@dataclass(frozen=True, kw_only=True)
class Shown:
    """All that the table is made of; ``report`` is what ``moe-export validate --json`` says."""

    checkpoint: Path
    bundle: Path
    trained: Made
    exported: Made
    validated_in: float
    report: dict[str, Any]
    eager: Measured
    bundled: Measured
    threads: int


def accuracies(shown: Shown) -> dict[str, float]:
    """The share of held-out questions that each side answers letter for letter."""
    return {
        "the eager model": _right(shown.eager).mean(),
        "the bundle": _right(shown.bundled).mean(),
    }


def lines(shown: Shown) -> Iterator[str]:
    """The table, line by line."""
    rows = [*_quality(shown), *_parity(shown.report), *_sizes(shown), *_times(shown)]
    width = max(len(label) for label, _ in rows)
    yield from (f"  {label.ljust(width)}  {words}" for label, words in rows)


def _quality(shown: Shown) -> Iterator[tuple[str, str]]:
    eager, bundled = (_right(side) for side in (shown.eager, shown.bundled))
    yield (
        "held-out questions right",
        f"eager {eager.mean():.2%}, bundle {bundled.mean():.2%} of {len(eager):,}",
    )
    kinds = np.array([question.kind for question in held_out_questions().questions])
    by_kind = (f"{kind} {bundled[kinds == kind].mean():.1%}" for kind in dict.fromkeys(kinds))
    yield "  by kind, bundle", ", ".join(by_kind)
    same = np.array(shown.eager.answers) == np.array(shown.bundled.answers)
    yield "same answer, right or wrong", f"{same.mean():.2%}"
    yield from _routing(shown.eager, shown.bundled)


def _routing(eager: Measured, bundled: Measured) -> Iterator[tuple[str, str]]:
    differ = {
        layer: (routing.topk_ids != bundled.routing[layer].topk_ids).any(axis=-1)
        for layer, routing in eager.routing.items()
    }
    tokens = len(next(iter(differ.values())))
    flips = sum(int(layer.sum()) for layer in differ.values())
    total = tokens * len(differ)
    yield (
        "same experts for a token",
        f"{_share(total - flips, total)} of {tokens:,} tokens in {len(differ)} MoE layers",
    )
    margins = [eager.routing[layer].margins[rows].max(initial=0) for layer, rows in differ.items()]
    yield (
        "  where they differ",
        f"{flips} times, the last logit chosen leading by at most {max(margins):.1e}"
        if flips
        else "nowhere",
    )


def _parity(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    tensors = report["tensors"]
    within = sum(tensor["passed"] for tensor in tensors)
    verdict = "passed" if report["passed"] else "FAILED"
    yield "parity", f"{verdict}: {within} of {len(tensors)} tensors within tolerance"
    nearest = max(tensors, key=lambda tensor: tensor["max_error"] / tensor["tolerance"])
    yield (
        "  nearest to its limit",
        f"{nearest['name']}: error {nearest['max_error']:.1e}, "
        f"eager's own {nearest['eager_error']:.1e}, tolerance {nearest['tolerance']:.1e}",
    )
    for name, reason in report["not_run"].items():
        yield f"  not run: {name}", reason


def _sizes(shown: Shown) -> Iterator[tuple[str, str]]:
    files = [path for path in shown.bundle.rglob("*") if path.is_file()]
    weights = sum(path.stat().st_size for path in files if path.suffix == ".data")
    golden = sum(path.stat().st_size for path in files if path.suffix == ".safetensors")
    total = sum(path.stat().st_size for path in files)
    yield (
        "size",
        f"model.pt {_size(shown.checkpoint.stat().st_size)}, bundle {_size(total)} "
        f"(weights {_size(weights)}, golden tensors {_size(golden)})",
    )


def _times(shown: Shown) -> Iterator[tuple[str, str]]:
    yield (
        "time",
        f"train {_made_in(shown.trained)}, export {_made_in(shown.exported)}, "
        f"validate {shown.validated_in:.0f} s",
    )
    yield "memory of the export", f"at most {_size(shown.exported.peak_bytes)}"
    for label, attribute in (("alone", "single"), (f"{BATCH_SIZE} at a time", "batched")):
        eager, bundled = (getattr(side, attribute) for side in (shown.eager, shown.bundled))
        yield (
            f"a question, {label}",
            f"eager {1000 * eager:.2f} ms, bundle {1000 * bundled:.2f} ms: "
            f"{eager / bundled:.1f} times as fast on {_threads(shown.threads)}",
        )


def _right(side: Measured) -> np.ndarray:
    questions = held_out_questions().questions
    pairs = zip(side.answers, questions, strict=True)
    return np.array([answer == question.answer for answer, question in pairs])


def _share(part: int, whole: int) -> str:
    """Never rounded up to all."""
    return "100 %" if part == whole else f"{np.floor(1e6 * part / whole) / 1e4:.4f} %"


def _made_in(made: Made) -> str:
    return f"{made.seconds:.0f} s" + (" (before)" if made.reused else "")


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
