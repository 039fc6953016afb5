#!/usr/bin/env bash
# Build the native library.  Installs what is missing for it; quick when nothing changed.
#
# usage: tools/native.sh library          into moe_export/native/
#        tools/native.sh tests            the native tests, and run them
#        tools/native.sh sanitized-tests  the same with the address and undefined-behaviour sanitizers
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly what=${1:?usage: tools/native.sh library|tests|sanitized-tests}
case $what in
  library) build=build/native options=() ;;
  tests) build=build/native-tests options=(-D MOE_EXPORT_TESTS=ON) ;;
  sanitized-tests)
    build=build/native-sanitized
    options=(-D MOE_EXPORT_TESTS=ON -D 'MOE_EXPORT_SANITIZE=address,undefined')
    ;;
  *) echo "error: $what is not library, tests or sanitized-tests" >&2; exit 2 ;;
esac

# A compiler is the system's affair.  CMake and Ninja come from the package index where they are
# missing, as they do for `pip install`.
compiler=${CXX:-c++}
command -v "${compiler%% *}" >/dev/null || tools/apt-install g++
export PATH=$PWD/.venv/bin:$PATH
cmake_is_new_enough() {
  local version
  version=$(cmake --version 2>/dev/null | sed -n '1s/[^0-9]*//p')
  [ -n "$version" ] && printf '3.20\n%s\n' "$version" | sort -CV
}
missing=()
cmake_is_new_enough || missing+=('cmake>=3.20')
command -v ninja >/dev/null || missing+=(ninja)
if [ ${#missing[@]} -gt 0 ]; then
  .venv/bin/python -m pip install --quiet --no-input "${missing[@]}"
  hash -r
fi

# CMake's cache does not survive being moved, nor the loss of the Ninja that it names.
cached() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt" 2>/dev/null; }
if [ "$(cached CMAKE_HOME_DIRECTORY)" != "$PWD" ] || ! [ -x "$(cached CMAKE_MAKE_PROGRAM)" ]; then
  rm -rf "$build"
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Silent unless it fails: what was compiled is nobody's news.
quietly() { "$@" >"$log" 2>&1 || { cat "$log" >&2; return 1; }; }
[ -e "$build/build.ninja" ] ||
  echo "building the native ${what} (a minute or two, once) ..." >&2
quietly cmake -S . -B "$build" -G Ninja "${options[@]}"
quietly cmake --build "$build" --parallel "${MOE_EXPORT_JOBS:-$(nproc)}"
case $what in
  library) quietly cmake --install "$build" --prefix "$PWD" --strip ;;
  *) ctest --test-dir "$build" --output-on-failure --parallel "$(nproc)" ;;
esac
