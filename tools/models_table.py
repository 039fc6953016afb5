"""Run every family of tests/families through the line and write docs/models.md.

    .venv/bin/python tools/models_table.py [FAMILY...]

It takes half an hour on two cores, a family on each.  With names it runs these, and leaves the
other rows of the page.
"""

from __future__ import annotations

import html
import os
import sys
import tempfile
import warnings
from multiprocessing import Pool
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from families.catalogue import CASES, REMARKS, STOPPED, Case  # noqa: E402
from families.stages import STAGES, Progress, progress  # noqa: E402
from families.untried import NOT_TRIED, NOT_TRIED_TEXT, OTHER_TASKS  # noqa: E402

PAGE = ROOT / "docs" / "models.md"

INTRODUCTION = """# Models

Families of the Transformers library, by `model_type`.  A small model of each, with weights drawn at
random, went through the line; this page is what came of it, written by `tools/models_table.py` with
Transformers {transformers} and PyTorch {torch}.

- **proven**: the parts (`vision`, `embed`, `decoder`) give the logits of the whole model, for a
  prompt and for the token after it, in float32;
- **recognised**: every block of experts is proven in float64 to be a router and experts;
- **exported**: a bundle for the target `ort` was made, and its golden tensors validated;
- **prefill**: its logits for a new prompt are the whole model's;
- **decode**: {tokens} tokens of it are those of Transformers' `generate`, greedily;
- **standard**: a bundle for the target `standard` was made and validated, and decodes the same.

A stage behind one that failed was *not run*.  Sliding windows, chunks and what an index keeps are
shorter than the prompts here.
"""

STATE = """
Layers of linear attention, state spaces and short convolutions carry `past_conv_<i>`,
`past_state_<i>` or both where others have keys and values, of one size however long the text.
Those that convolve keys and values carry `past_conv0_<i>` to `past_conv3_<i>` beside them.  In
layers with a `past_state_<i>`, and only there, a prompt runs one token after the other (ONNX
`Scan`).  Layers of other kinds are refused by name when the model is loaded.
"""


def main() -> None:
    wanted = [case for case in CASES if len(sys.argv) == 1 or case.family in sys.argv[1:]]
    rows = known_rows() if len(sys.argv) > 1 else {}
    with Pool(max(1, len(os.sched_getaffinity(0))), maxtasksperchild=1) as workers:
        for case, made in zip(wanted, workers.imap(_progress, wanted, chunksize=1), strict=True):
            rows[case.family] = row(case, made)
            print(case.family, *made.passed, made.reason, file=sys.stderr, flush=True)
            PAGE.write_text(page_of(rows), encoding="utf-8")


def _progress(case: Case) -> Progress:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        return progress(case, Path(folder))


def page_of(rows: dict[str, str]) -> str:
    from importlib.metadata import version

    from families.stages import ANSWER_TOKENS

    page = INTRODUCTION.format(
        transformers=version("transformers"), torch=version("torch"), tokens=ANSWER_TOKENS
    )
    page += "\n## Vision-language models\n\n" + table("vision", rows)
    page += listed("Without a record, and not run", NOT_TRIED)
    page += "\n## Language models\n\n" + table("text", rows)
    page += listed("Not run", NOT_TRIED_TEXT) + STATE
    return page + "\n## Other models with experts\n" + listed("Not run", OTHER_TASKS)


def known_rows() -> dict[str, str]:
    """The lines of the page as it is, by family."""
    lines = PAGE.read_text(encoding="utf-8").splitlines(keepends=True)
    return {line.split("`")[1]: line for line in lines if line.startswith("| `")}


def row(case: Case, made: Progress) -> str:
    remark = REMARKS.get(case.family, "")
    if made.reason:
        stop = STOPPED.get(case.family)
        remark = made.reason if stop is None else f"{stop.why}.  The message: {made.reason}"
    return _line([f"`{case.family}`", *_marks(made), remark])


def table(kind: str, rows: dict[str, str]) -> str:
    head = ["family", *STAGES, "remarks"]
    made = [rows[case.family] for case in CASES if case.kind == kind and case.family in rows]
    return _line(head) + _line(["---"] * len(head)) + "".join(made)


def listed(heading: str, families: dict[str, str]) -> str:
    """The families that have no row, each with its reason; nothing where there are none."""
    if not families:
        return ""
    lines = [f"- `{family}`: {reason}\n" for family, reason in families.items()]
    return f"\n{heading}:\n\n" + "".join(lines)


def _marks(made: Progress) -> list[str]:
    count = len(made.passed)
    return ["yes"] * count + ["no", *["not run"] * len(STAGES)][: len(STAGES) - count]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |\n"


def _cell(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|")


if __name__ == "__main__":
    main()
