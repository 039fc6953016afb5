"""The whole line, shown: ``python -m digits_vlm.demo --out FOLDER``.

Trains the model, exports it, validates the bundle, asks both every held-out question (the bundle in
a process that cannot import PyTorch) and prints what came out.  What FOLDER holds already is used
again while its sources stay the same.  Exits with 1 where fewer than 95 % of the answers are right,
and with the status of ``moe-export`` where that fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import moe_export
from digits_vlm.kept import Cost, kept_or_made, sources, versions
from digits_vlm.measure import Measured
from digits_vlm.table import Shown, accuracies, lines
from moe_export.runtime import kernels

PACKAGE = Path(os.path.relpath(Path(__file__).parent))
EXAMPLES = PACKAGE.parent
MOE_EXPORT = Path(sys.executable).with_name("moe-export")

# What shows the model does not make it.
SHOWING = {
    f"{name}.py" for name in ("demo", "kept", "measure", "table", "with_torch", "without_torch")
}
WANTED_ACCURACY = 0.95
EXAMPLES_SHOWN = 3
# Of each side.  With more, whatever else the machine does slows the two by unlike amounts.
THREADS = 1


def main() -> int:
    """Make what is missing, measure both sides, and say what came out."""
    parser = argparse.ArgumentParser(prog="python -m digits_vlm.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-output"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, bundle = out / "model.pt", out / "bundle"

    def train() -> Cost:
        return run(sys.executable, "-m", "digits_vlm.train", "--out", out)

    def export() -> Cost:
        return run(MOE_EXPORT, checkpoint, "--python-path", EXAMPLES, "-o", bundle, "--force")

    trained = kept_or_made(checkpoint, model_is_made_from(), train)
    exported = kept_or_made(bundle, bundle_is_made_from(checkpoint), export)
    report, validating = read(MOE_EXPORT, "validate", bundle, "--json")
    eager, bundled = measured(checkpoint, bundle, out)
    shown = Shown(
        checkpoint=checkpoint,
        bundle=bundle,
        trained=trained,
        exported=exported,
        validated_in=validating.seconds,
        report=json.loads(report),
        eager=eager,
        bundled=bundled,
        threads=THREADS,
    )
    asked = list(examples(bundle, out))
    print("\n".join(["", *lines(shown), "", *asked, "", *lies_at(bundle)]))
    return judge(shown)


def judge(shown: Shown) -> int:
    """The exit status: 1 where a side answers too few questions right."""
    missed = {side: share for side, share in accuracies(shown).items() if share < WANTED_ACCURACY}
    for side, share in missed.items():
        print(
            f"error: {side} answers {share:.1%} of the held-out questions right, "
            f"less than {WANTED_ACCURACY:.0%}",
            file=sys.stderr,
        )
    return 1 if missed else 0


def lies_at(bundle: Path) -> Iterator[str]:
    yield f"  bundle   {bundle}"
    yield f"  reports  {', '.join(sorted(str(path) for path in (bundle / 'reports').iterdir()))}"


def model_is_made_from() -> list[Path | str]:
    makers = [path for path in sources(PACKAGE) if path.name not in SHOWING]
    return [*makers, *versions("torch", "numpy", "scikit-learn", "tokenizers")]


def bundle_is_made_from(checkpoint: Path) -> list[Path | str]:
    exporter = sources(Path(moe_export.__file__).parent)
    tools = versions("torch", "numpy", "onnx", "onnx-ir", "onnxscript", "onnxruntime")
    return [checkpoint, kernels.library_path(), *exporter, *tools]


def measured(checkpoint: Path, bundle: Path, out: Path) -> tuple[Measured, Measured]:
    """The eager model and the bundle, one after the other so that neither slows the other."""
    eager, bundled = out / "measured-eager.npz", out / "measured-bundle.npz"

    def measure_both() -> Cost:
        run(sys.executable, "-m", "digits_vlm.with_torch", checkpoint, eager, THREADS)
        script = PACKAGE / "without_torch.py"
        return run(sys.executable, "-I", script, bundle, bundled, THREADS, EXAMPLES)

    facts = [bundle / "moe_export.json", kernels.library_path(), f"{THREADS} threads"]
    made_from = [checkpoint, *facts, *sources(PACKAGE)]
    kept_or_made(bundled, made_from, measure_both)
    return Measured.load(eager), Measured.load(bundled)


def examples(bundle: Path, out: Path) -> Iterator[str]:
    """Some questions about held-out images, each asked through the command line."""
    samples = json.loads((out / "questions.json").read_text())
    for sample in samples[: 4 * EXAMPLES_SHOWN : 4]:  # the kinds of question take turns
        image, question, right = out / sample["image"], sample["question"], sample["answer"]
        answer = read(MOE_EXPORT, "run", bundle, "--image", image, "--prompt", question)[0].strip()
        verdict = "right" if answer == right else f"wrong, it is {right!r}"
        yield f"  {image}  {question}  {answer}  ({verdict})"


def read(*words: Any) -> tuple[str, Cost]:
    """Run a command; what it printed, and its cost."""
    with tempfile.TemporaryFile("w+") as file:
        cost = run(*words, stdout=file)
        file.seek(0)
        return file.read(), cost


def run(*words: Any, stdout: Any = sys.stderr) -> Cost:
    """Run a command, saying which; exits with its status where that is not 0."""
    command = [str(word) for word in words]
    print("$", shlex.join([Path(command[0]).name, *command[1:]]), file=sys.stderr, flush=True)
    paths = {"PYTHONPATH": str(EXAMPLES)}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | paths, stdout=stdout)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode if process.returncode > 0 else 128 - process.returncode)
    # In KiB on Linux.  A child starts with its parent's peak; this one's is far below an export's.
    return Cost(seconds=time.perf_counter() - started, peak_bytes=usage.ru_maxrss * 1024)


if __name__ == "__main__":
    sys.exit(main())
