#!/usr/bin/env bash
# Prove that one library serves old and new: solve the problems of the test suite with the native
# kernels in this environment's ONNX Runtime and in an old one, and compare bit for bit; then validate
# a whole bundle on the old one, without PyTorch.
#
# usage: tools/old-ort.sh [VERSION]      (default: the oldest that the kernels are made for)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly version=${1:-1.24.4}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

.venv/bin/python - "$work" <<'PYTHON'
import pickle
import sys
from pathlib import Path

sys.path[:0] = ["tests", "."]
import moe_export
from line import tiny
from moe_export.moe.schema import OPS
from moe_export.runtime import kernels
from native import nodes
from ops.kernels import packed
from problems import all_problems

cases = []
for problem in all_problems():
    rows = problem.attributes, problem.inputs
    for layout, (attributes, inputs) in {"rows": rows, "panels": packed(problem)}.items():
        weights = {i.name for i in OPS[problem.op].inputs if i.type in ("weight", "scale")}
        fed = {name: array for name, array in inputs.items() if name not in weights}
        model = nodes.model(problem.op, attributes, inputs, fed=fed)
        outputs = nodes.session(model).run(None, fed)
        cases.append((f"{problem} in {layout}", model, fed, outputs))
work = Path(sys.argv[1])
(work / "cases").write_bytes(pickle.dumps((str(kernels.library_path()), cases)))
for precision in ("f32", "int4"):
    output = work / f"{precision}.moe"
    model, inputs = tiny.build(), tiny.example_inputs()
    moe_export.export(model, example_inputs=inputs, precision=precision, output=output)
PYTHON

echo "making an environment with ONNX Runtime $version ..." >&2
.venv/bin/python -m venv "$work/venv"
needed=$(.venv/bin/python - <<'PYTHON'
import tomllib

print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")
PYTHON
)
mapfile -t needed <<<"$needed"
"$work/venv/bin/python" -m pip install --quiet --no-input "${needed[@]}" "onnxruntime==$version"
"$work/venv/bin/python" - "$work" <<'PYTHON'
import pickle
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

library, cases = pickle.loads((Path(sys.argv[1]) / "cases").read_bytes())
for name, model, fed, expected in cases:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(library)
    outputs = ort.InferenceSession(model, options, ["CPUExecutionProvider"]).run(None, fed)
    for a, b in zip(outputs, expected, strict=True):
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), name
print(f"ONNX Runtime {ort.__version__}: {len(cases)} problems solved to the same bits")
PYTHON
for precision in f32 int4; do
  PYTHONPATH=$PWD "$work/venv/bin/python" -c "from moe_export.cli import main; main()" validate "$work/$precision.moe"
done
