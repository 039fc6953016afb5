#!/usr/bin/env bash
# Build the native library.  Installs what is missing for it; quick when nothing changed.
#
# usage: tools/native.sh library          the kernels into moe_export/native/
#        tools/native.sh runtime          libmoe_export and its headers into build/embed-install
#        tools/native.sh tests            the native tests, and run them
#        tools/native.sh sanitized-tests  the same with the address and undefined-behaviour sanitizers
#        tools/native.sh thread-tests     those of the runtime with the thread sanitizer
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly what=${1:?usage: tools/native.sh library|runtime|tests|sanitized-tests|thread-tests}
# One build for all that is made alike: kernels take minutes to compile.
build=build/native options=(-D MOE_EXPORT_WERROR=ON) targets=()
case $what in
  library) targets=(moe_export_ort) ;;
  runtime) targets=(moe_export moe_export_ort) ;;
  tests) ;;
  sanitized-tests)
    build=build/native-sanitized options+=(-D 'MOE_EXPORT_SANITIZE=address,undefined')
    ;;
  thread-tests)
    build=build/native-thread options+=(-D MOE_EXPORT_SANITIZE=thread) targets=(runtime_tests)
    ;;
  *) echo "error: $what is none of the words of $0" >&2; exit 2 ;;
esac
if [ "$what" != library ]; then
  options+=(-D MOE_EXPORT_TESTS=ON -D MOE_EXPORT_RUNTIME=ON)
  tools/runtime-packages # none of it is needed for the kernels
fi

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
[ -e "$build/build.ninja" ] || echo "building the native ${what} (some minutes, once) ..." >&2
quietly cmake -S . -B "$build" -G Ninja "${options[@]}"
quietly cmake --build "$build" --parallel "${MOE_EXPORT_JOBS:-$(nproc)}" \
  ${targets[@]:+--target "${targets[@]}"}
case $what in
  library) quietly cmake --install "$build" --prefix "$PWD" --strip --component native ;;
  runtime) quietly cmake --install "$build" --prefix "$PWD/build/embed-install" --strip --component embed ;;
  thread-tests) ctest --test-dir "$build" --output-on-failure --tests-regex '^runtime' ;;
  *) ctest --test-dir "$build" --output-on-failure --parallel "$(nproc)" ;;
esac
