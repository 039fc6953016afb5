#!/usr/bin/env bash
# Install what tests of pages need, a Chromium and letters for it, where that can be done.
#
# Where it cannot it says so and succeeds: those tests are skipped with the reason.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v chromium >/dev/null && exit 0
tools/apt-install chromium fonts-dejavu-core || echo "tests of pages will be skipped" >&2
