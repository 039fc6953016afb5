#!/usr/bin/env bash
# Prove that a bundle needs no workshop: install the wheel with its own dependencies alone and run
# there what may be run without PyTorch and ONNX, the program aside; then the program too.
#
# usage: tools/runtime-only.sh [BUNDLE]      (default: one that is made of a tiny model)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly workshop=.venv/bin/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

bundle=$(realpath -m "${1:-$work/tiny.moe}")
[ -e "$bundle" ] || "$workshop" - "$bundle" <<'PYTHON'
import sys

import moe_export

sys.path.insert(0, ".")
from tests.line.tiny import build, example_inputs

moe_export.export(build(), output=sys.argv[1], example_inputs=example_inputs())
PYTHON

# One that answers in text: it knows "which digit" of a dark image to be "seven".
"$workshop" - "$work" <<'PYTHON'
import sys
from pathlib import Path

import PIL.Image

sys.path[:0] = [".", "tests"]
from bundle.toy import bigram_model, export

folder = Path(sys.argv[1])
export(bigram_model(), folder / "toy.moe")
PIL.Image.new("L", (2, 2)).save(folder / "dark.png")
PYTHON

ls dist/*.whl >/dev/null 2>&1 || tools/wheel.sh >&2
wheel=$(realpath dist/*.whl)
echo "installing $(basename "$wheel") where there is nothing else ..." >&2
"$workshop" -m venv "$work/venv"
readonly python=$work/venv/bin/python
"$python" -m pip install --quiet --no-input "$wheel"
# tokenizers may bring it by way of packages of its own; nothing here relies on that.
"$python" -m pip uninstall --quiet --yes click 2>/dev/null
cp examples/python_embed/answer.py "$work"

cd "$work" # not where the sources are: what was installed is what runs
"$python" -m pip list --format freeze | grep -v '^\(pip\|setuptools\)=='
[ "$("$python" answer.py toy.moe dark.png 'which digit')" = seven ]
"$python" - "$bundle" <<'PYTHON'
import importlib.util
import sys

import numpy as np

import moe_export
from moe_export.validate import validate

workshop = ("torch", "onnx", "onnx_ir", "onnxscript", "ml_dtypes", "jinja2", "sklearn")
for name in (*workshop, "click", "safetensors", "transformers"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed"

bundle = moe_export.Bundle.open(sys.argv[1])
with moe_export.Session(bundle) as session:
    case = bundle.golden().cases[0]
    for name, array in session.run(case.inputs).items():
        print(name, array.dtype, list(array.shape), "finite:", bool(np.isfinite(array).all()))
report = validate(bundle)
assert report.passed
print(f"parity passed on {len(report.tensors)} tensors and {len(report.routing)} routings")
PYTHON
status=0
venv/bin/moe-export inspect "$bundle" || status=$?
[ "$status" -eq 5 ] || { echo "the program without click: exit code $status" >&2; exit 1; }
"$python" -m pip install --quiet --no-input "$wheel[cli]"
venv/bin/moe-export inspect "$bundle"
venv/bin/moe-export validate "$bundle"
# Exporting does need the workshop, and its absence is the user's to fix: exit code 5, no traceback.
status=0
venv/bin/moe-export os:getcwd -o "$work/never" || status=$?
[ "$status" -eq 5 ] || { echo "export without PyTorch: exit code $status instead of 5" >&2; exit 1; }
echo "without PyTorch and ONNX: opened, ran, validated"
