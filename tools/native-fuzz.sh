#!/usr/bin/env bash
# Give the native readers of files whatever libFuzzer thinks of, with the address and
# undefined-behaviour sanitizers: tools/native-fuzz.sh [SECONDS [TARGET...]]
#
# SECONDS is for each target (60), TARGET a file of plugins/tests/fuzz without its end (all).  What was
# found is kept in build/native-fuzz/found/TARGET; the next run goes on from there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly seconds=${1:-60} build=build/native-fuzz
targets=("${@:2}")
if [ ${#targets[@]} -eq 0 ]; then
  for source in plugins/tests/fuzz/*.cc; do targets+=("$(basename "$source" .cc)"); done
fi
command -v clang++ >/dev/null || tools/apt-install clang
tools/runtime-packages
export PATH=$PWD/.venv/bin:$PATH
cmake -S . -B "$build" -G Ninja -D CMAKE_CXX_COMPILER=clang++ -D MOE_EXPORT_RUNTIME=ON \
  -D MOE_EXPORT_FUZZ=ON -D MOE_EXPORT_SANITIZE=fuzzer-no-link,address,undefined \
  -D CMAKE_BUILD_TYPE=RelWithDebInfo >/dev/null
cmake --build "$build" --parallel "${MOE_EXPORT_JOBS:-$(nproc)}" \
  $(printf -- '--target fuzz_%s ' "${targets[@]}") >/dev/null
for target in "${targets[@]}"; do
  found=$build/found/$target
  mkdir -p "$found"
  # Files of the kind to begin with, and the words that they are made of.
  seeds=plugins/tests/fuzz/seeds/$target dictionary=plugins/tests/fuzz/$target.dict
  options=(-max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1)
  options+=(-artifact_prefix="$found/../$target-")
  if [ -e "$dictionary" ]; then options+=(-dict="$dictionary"); fi
  if [ -d "$seeds" ]; then set -- "$seeds"; else set --; fi
  echo "$target: $seconds s ..." >&2
  log=$build/$target.log
  "$build/plugins/tests/fuzz/fuzz_$target" "${options[@]}" "$found" "$@" 2>"$log" ||
    { tail -n 60 "$log" >&2; exit 1; }
  grep -E 'stat::number_of_executed_units|stat::average_exec_per_sec|stat::peak_rss_mb' "$log"
done
