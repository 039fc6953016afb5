"""Run problems drawn at random through everything that runs an op, and compare with the oracle.

usage: python -m tools.fuzz [--seconds 60] [--seed 0] [--runtimes NAME ...] [--ops NAME ...]

Exits with 0 where nothing was found in that time, and with 4 where something was: the smallest
problem that shows it is printed and kept in --out.  A seed and a number of rounds say which
problems were drawn.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT), str(ROOT / "tests")]

from tools.fuzz.drawn import OPS  # noqa: E402
from tools.fuzz.judge import Found, runtimes_here, search  # noqa: E402


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--ops", nargs="+", choices=OPS, default=list(OPS))
    options.add_argument("--runtimes", nargs="+", choices=runtimes_here(), default=runtimes_here())
    options.add_argument("--out", type=Path, default=Path("fuzz-found.npz"))
    chosen = options.parse_args()
    print(f"seed {chosen.seed}, {', '.join(chosen.runtimes)}", flush=True)
    searched = search(chosen.ops, chosen.runtimes, chosen.seed, chosen.seconds)
    for op, (rounds, problems) in searched.drawn.items():
        print(f"{op}: {problems} problems in {rounds} rounds")
    if isinstance(searched.found, Found):
        found = searched.found
        found.keep(chosen.out)
        print(f"{found.runtime} fails {found.problem}: {found.why}\nkept in {chosen.out}")
        return 4
    print(f"nothing found in {searched.seconds:.0f} s")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
