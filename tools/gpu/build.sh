#!/usr/bin/env bash
# Build the GPU side into moe_export/native, on a machine with or without a GPU: the kernels ahead of
# time for every GPU they are for, and the TensorRT plugins with them inside.  Runs the native tests
# of the plugins.  Some minutes once, quick when nothing changed.
#
# usage: tools/gpu/build.sh            after tools/setup.sh, which `make gpu` sees to
#        tools/gpu/build.sh tests      and the kernels for the CPU on which tests run them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# What only this side needs is installed when it is asked for: it is a gigabyte.
readonly stamp=.venv/made-for-gpu
made_from=$({ pwd; cat .venv/made-from tools/gpu/requirements.txt; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null)" != "$made_from" ]; then
  echo "installing Triton and TensorRT-RTX (some minutes, once) ..." >&2
  .venv/bin/python -m pip install --quiet --no-input -r tools/gpu/requirements.txt
  echo "$made_from" >"$stamp"
fi
export PATH=$PWD/.venv/bin:$PATH
[ -e build/gpu/moe_kernels.fatbin ] ||
  echo "compiling the GPU kernels for all SMs (some minutes, once) ..." >&2
.venv/bin/python tools/gpu/compile_kernels.py --out build/gpu --jobs "${MOE_EXPORT_JOBS:-$(nproc)}"
tools/gpu/plugin.sh
cmake --install build/gpu-native --prefix "$PWD" --strip >/dev/null
if [ "${1:-}" = tests ]; then
  [ -d build/ptx/shipped ] ||
    echo "translating the GPU kernels for the CPU (some minutes, once) ..." >&2
  kernels=$(find build/gpu/ptx -maxdepth 1 -name '*.ptx' ! -name 'sm_*.ptx' | sort)
  # shellcheck disable=SC2086  # names without spaces
  .venv/bin/python -m tools.ptx build build/ptx/shipped $kernels >/dev/null
fi
