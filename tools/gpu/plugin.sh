#!/usr/bin/env bash
# Build the TensorRT plugins and the harness that drives them without a GPU, and run its tests.
#
# libmoe_export_trt.so itself is built where GPU kernels were compiled into build/gpu, or into the folder
# that MOE_EXPORT_GPU_KERNELS names; the harness has a twin of it whose kernels run on the host.
#
# usage: tools/gpu/plugin.sh            into build/gpu-native
#        tools/gpu/plugin.sh sanitized  into build/gpu-sanitized, with the address and
#                                       undefined-behaviour sanitizers
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

options=()
case ${1:-plain} in
  plain) build=build/gpu-native ;;
  sanitized) build=build/gpu-sanitized options=(-D 'MOE_EXPORT_SANITIZE=address,undefined') ;;
  *) echo "usage: tools/gpu/plugin.sh [sanitized]" >&2; exit 2 ;;
esac
export PATH=$PWD/.venv/bin:$PATH  # CMake and Ninja, where the system has none
headers=$(tools/gpu/trt_headers.sh)
kernels=${MOE_EXPORT_GPU_KERNELS:-$PWD/build/gpu}
if [ -e "$kernels/moe_kernels.fatbin" ]; then
  options+=(-D MOE_EXPORT_GPU_KERNELS="$kernels")
else
  echo "libmoe_export_trt.so is not built: no GPU kernels in $kernels" >&2
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() { "$@" >"$log" 2>&1 || { cat "$log" >&2; return 1; }; }
quietly cmake -S . -B "$build" -G Ninja -D MOE_EXPORT_TENSORRT=ON \
  -D MOE_EXPORT_TENSORRT_INCLUDE="$headers" "${options[@]}"
quietly cmake --build "$build" --parallel "${MOE_EXPORT_JOBS:-$(nproc)}"
ctest --test-dir "$build" --output-on-failure --tests-regex '^(trt|ort_cuda)\.'
