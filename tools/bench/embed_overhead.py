"""What the C++ library costs over ONNX Runtime itself, in one run and by its CPU time.

usage: python -m tools.bench.embed_overhead BUNDLE [--rounds 400]

For each graph of a bundle a program runs it in turn by the library and by ONNX Runtime's own
functions on the same inputs, one thread each, and tells the medians; the ratio is that of rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT), str(ROOT / "tests")]

from embed.driver import built, environment  # noqa: E402
from moe_export.runtime import Bundle, Session  # noqa: E402

_SIZES = ({"sequence": 1, "past": 64}, {"sequence": 32, "past": 0})


def sizes_of(session: Session, sequence: int, past: int) -> dict[str, int]:
    """A size for every name of an axis."""
    known = {"batch": 1, "sequence": sequence, "past": past, "past+sequence": past + sequence}
    known |= {"features": 0, "images": 1}
    names = {size for info in session.inputs for size in info.shape if isinstance(size, str)}
    return {name: known[name] for name in names if name in known}


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("bundle", type=Path)
    options.add_argument("--rounds", type=int, default=400)
    chosen = options.parse_args()
    bundle = Bundle.open(chosen.bundle)
    print("| graph | tokens | behind | library | ONNX Runtime | ratio |")
    print("|---|---|---|---|---|---|")
    for component in sorted(bundle.manifest.components.keys() & {"embed", "decoder"}):
        session = Session(bundle, component=component, threads=1)
        for size in _SIZES:
            axes = [f"{name}={n}" for name, n in sizes_of(session, **size).items()]
            words = [built("moe_embed_overhead"), bundle.path, component, *axes]
            words += ["--rounds", str(chosen.rounds)]
            ran = subprocess.run(
                [str(word) for word in words],
                env=environment(),
                capture_output=True,
                text=True,
                check=True,
            )
            made = json.loads(ran.stdout)
            print(
                f"| {component} | {size['sequence']} | {size['past']} "
                f"| {made['library_us']:.1f} µs | {made['onnxruntime_us']:.1f} µs "
                f"| {made['ratio']:.3f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
