"""Who takes part in tools/bench/models.py: a record for each line of the table."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

OURS = "moe-export"


@dataclass(frozen=True)
class Contender:
    """A model in one precision on one engine."""

    name: str
    precision: str
    """Of the weights: lines of one precision are compared."""

    engine: str
    """The module that prepares and runs it."""

    options: dict[str, Any] = field(default_factory=dict)
    remark: str = ""

    @property
    def is_ours(self) -> bool:
        return self.engine == "model_ours"

    @property
    def is_reference(self) -> bool:
        """The line that others of the precision are compared with."""
        return self.name == OURS

    @property
    def label(self) -> str:
        return f"{self.name} {self.precision}"

    @property
    def folder(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")


def _ours(precision: str, dense: str | None = None, name: str = OURS, rows: str = "") -> Contender:
    """Experts in ``precision`` and all other products in ``dense``, by default in the same.

    ``rows`` is what stands behind both: ``@`` and what the rows are rounded to.
    """
    flags = ["--precision", precision + rows, "--dense-precision", (dense or precision) + rows]
    return Contender(name, precision, "model_ours", {"flags": flags})


def _llama(precision: str, kind: str, tower: str) -> tuple[Contender, Contender]:
    files = {"kind": kind, "tower": tower}
    return (
        Contender("llama.cpp", precision, "model_llama", files, f"{kind}, its tower in {tower}"),
        Contender("llama-bench", precision, "model_llama_bench", files, "text alone"),
    )


_TORCH = "model_torch"
_ONNX = "model_transformers_onnx"
_OPENVINO = "model_openvino"
_GENAI = "model_genai"
_TEXT = "text of a qwen3_5_moe of the same sizes"

CONTENDERS = (
    _ours("f32"),
    Contender("torch eager", "f32", _TORCH),
    Contender("transformers onnx", "f32", _ONNX),
    Contender("transformers openvino", "f32", _OPENVINO),
    Contender("onnxruntime-genai", "f32", _GENAI, {}, _TEXT),
    _ours("bf16"),
    _ours("bf16", "f32", "moe-export, dense f32"),
    *_llama("bf16", "BF16", "f16"),
    Contender("torch eager", "bf16", _TORCH),
    Contender("transformers onnx", "bf16", _ONNX),
    Contender("transformers openvino", "bf16", _OPENVINO),
    _ours("int8"),
    _ours("int8", "f32", "moe-export, dense f32"),
    _ours("int8", name="moe-export, int8 rows", rows="@int8"),
    *_llama("int8", "Q8_0", "q8_0"),
    Contender("torch eager", "int8", _TORCH),
    Contender("transformers openvino", "int8", _OPENVINO),
    Contender("onnxruntime-genai", "int8", _GENAI, {"options": {"moe_quant_type": "int8"}}, _TEXT),
    _ours("int4"),
    _ours("int4", "int8", "moe-export, dense int8"),
    _ours("int4", "f32", "moe-export, dense f32"),
    *_llama("int4", "Q4_0", "q8_0"),
    Contender("torch eager", "int4", _TORCH),
    Contender("transformers openvino", "int4", _OPENVINO),
    Contender("onnxruntime-genai", "int4", _GENAI, {}, _TEXT),
)


def chosen(names: list[str], precisions: list[str]) -> list[Contender]:
    """Those of ``precisions`` whose name or label is among ``names``; all where there are none."""
    found = [each for each in CONTENDERS if each.precision in precisions]
    if not names:
        return found
    known = {each.name for each in CONTENDERS} | {each.label for each in CONTENDERS}
    unknown = sorted(set(names) - known)
    if unknown:
        raise ValueError(f"no contender is called {unknown[0]!r}: {', '.join(sorted(known))}")
    return [each for each in found if {each.name, each.label} & set(names)]
