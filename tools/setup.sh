#!/usr/bin/env bash
# Make .venv with everything that building and testing need.  Instant when nothing changed.
#
# PYTHON chooses the interpreter; by default python3.11, else the first python3 that is new enough.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly stamp=.venv/made-from
# Where the checkout lies is part of it: a virtual environment does not survive being moved.
made_from=$({ pwd; cat pyproject.toml tools/setup.sh; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null)" = "$made_from" ] && .venv/bin/python -c '' 2>/dev/null; then
  exit 0
fi

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13}; do
    if new_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

if ! python=$(find_python); then
  if [ -n "${PYTHON:-}" ]; then
    echo "error: PYTHON=$PYTHON is not a Python of 3.11 or newer" >&2
    exit 5
  fi
  tools/apt-install python3 python3-venv
  python=$(find_python) || {
    echo "error: Python 3.11 or newer is needed, python3 is $(python3 --version 2>&1)" >&2
    echo "hint: install one and name it: make PYTHON=/path/to/python3.11 ..." >&2
    exit 5
  }
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# Debian ships the interpreter without the means to make a virtual environment.
"$python" -c 'import venv, ensurepip' 2>/dev/null || tools/apt-install "python$version-venv"

echo "setting up .venv with Python $version (some minutes, once) ..." >&2
rm -f "$stamp"
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
pip_install() { .venv/bin/python -m pip install --quiet --no-input "$@"; }
# PyTorch first and pinned, so that nothing below picks another build of it: where pip's
# configuration offers a CPU build (2.13.0+cpu) it is preferred, and saves gigabytes of CUDA.
pip_install 'torch==2.13.0'
pip_install --editable '.[export,report,transformers,dev]'
echo "$made_from" >"$stamp"
