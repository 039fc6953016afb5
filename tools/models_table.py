"""Run every family of tests/families through the line and write docs/models.md.

    .venv/bin/python tools/models_table.py

It takes a quarter of an hour.
"""

from __future__ import annotations

import html
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from families.catalogue import CASES, NOT_TRIED, REMARKS, Case  # noqa: E402
from families.stages import STAGES, Progress, progress  # noqa: E402

PAGE = ROOT / "docs" / "models.md"

INTRODUCTION = """# Models

Families of the Transformers library, by `model_type`.  A small model of each, with weights drawn at
random, went through the line; this page is what came of it, written by `tools/models_table.py` with
Transformers {transformers} and PyTorch {torch}.

- **proven**: the parts (`vision`, `embed`, `decoder`) give the logits of the whole model, for a
  prompt and for the token after it, in float32;
- **recognised**: every block of experts is proven in float64 to be a router and experts;
- **exported**: a bundle was made, and its golden tensors validated on ONNX Runtime;
- **prefill**: the bundle's logits for a new prompt are the whole model's;
- **decode**: {tokens} tokens of the bundle are those of Transformers' `generate`, greedily.

A stage behind one that failed was *not run*.  Sliding windows and chunks are shorter than the
prompts here.
"""

STATE = """
Layers with another state than keys and values (linear attention, convolutions) are refused when the
model is loaded: a decoder for them has to carry that state, and to compute a prompt in steps whose
number depends on its length.
"""


def main() -> None:
    from importlib.metadata import version

    from families.stages import ANSWER_TOKENS

    warnings.simplefilter("ignore")
    done: dict[str, list[tuple[Case, Progress]]] = {"vision": [], "text": []}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            made = progress(case, Path(folder))
        done[case.kind].append((case, made))
        print(case.family, *made.passed, made.reason, file=sys.stderr, flush=True)
    page = INTRODUCTION.format(
        transformers=version("transformers"), torch=version("torch"), tokens=ANSWER_TOKENS
    )
    page += "\n## Vision-language models\n\n" + table(done["vision"]) + not_tried()
    page += "\n## Language models\n\n" + table(done["text"]) + STATE
    PAGE.write_text(page, encoding="utf-8")


def table(rows: list[tuple[Case, Progress]]) -> str:
    head = ["family", *STAGES, "remarks"]
    lines = [head, ["---"] * len(head)]
    for case, made in rows:
        remark = made.reason or REMARKS.get(case.family, "")
        lines.append([f"`{case.family}`", *_marks(made), remark])
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def not_tried() -> str:
    lines = [f"- `{family}`: {reason}\n" for family, reason in NOT_TRIED.items()]
    return "\nWithout a record, and not run:\n\n" + "".join(lines)


def _marks(made: Progress) -> list[str]:
    count = len(made.passed)
    return ["yes"] * count + ["no", *["not run"] * len(STAGES)][: len(STAGES) - count]


def _cell(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|")


if __name__ == "__main__":
    main()
