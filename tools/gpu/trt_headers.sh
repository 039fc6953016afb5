#!/usr/bin/env bash
# Print a folder that holds TensorRT's headers: tools/gpu/trt_headers.sh
#
# That of TENSORRT_INCLUDE or TENSORRT_ROOT, or of a TensorRT that is installed; else those of TensorRT
# 10.14 (Apache-2.0) that lie in the wheel of kernel-lens (MIT), fetched from the package index into
# build/trt-headers.  They are needed to build and are part of nothing that is built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly package=kernel-lens==2.0.1 into=$PWD/build/trt-headers
readonly fetched=$into/kernel_lens/include/tensorrt

for folder in "${TENSORRT_INCLUDE:-}" "${TENSORRT_ROOT:+$TENSORRT_ROOT/include}" /usr/include \
  /usr/include/x86_64-linux-gnu /usr/include/aarch64-linux-gnu /usr/local/tensorrt/include \
  /opt/tensorrt/include "$fetched"; do
  if [ -n "$folder" ] && [ -e "$folder/NvInferRuntime.h" ]; then
    echo "$folder"
    exit 0
  fi
done

python=.venv/bin/python
[ -x "$python" ] || python=python3
mkdir -p "$into"
"$python" -m pip download --quiet --no-input --no-deps --only-binary :all: --dest "$into" "$package" >&2 || {
  echo "error: TensorRT's headers are not installed, and $package could not be fetched" >&2
  echo "hint: install TensorRT and name the folder of its NvInferRuntime.h in TENSORRT_INCLUDE" >&2
  exit 5
}
# Only the headers and the licences: the rest of the wheel is of no use here.
"$python" - "$into" <<'PYTHON'
import pathlib, sys, zipfile

into = pathlib.Path(sys.argv[1])
(wheel,) = into.glob("kernel_lens-*.whl")
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        if name.startswith("kernel_lens/include/tensorrt/") or "/licenses/" in name:
            archive.extract(name, into)
wheel.unlink()
PYTHON
[ -e "$fetched/NvInferRuntime.h" ] || { echo "error: $package holds no NvInferRuntime.h" >&2; exit 5; }
echo "$fetched"
