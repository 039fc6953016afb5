"""What a call costs beside the graph that it runs: ours over ONNX Runtime's own, in one process.

    python tools/bench/overhead.py BUNDLE [--component decoder] [--rounds 40]

A round has a hundred calls of each way in turn, on the same inputs and the same graph; a ratio is
of the medians of all calls.  The smaller the model, the larger it is.  docs/bench.md says more.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from moe_export.runtime import Bundle, Session
from moe_export.runtime.cancel import Cancellation

_CALLS = 100


def contestants(session: Session, inputs: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """Ways to run one graph, ONNX Runtime's own first."""
    raw: Any = session._session
    cancel = Cancellation()
    outputs = list(session.output_names)
    expected = raw.run(outputs, inputs)
    bound, made = session.bind(), []
    for name, array in zip(outputs, expected, strict=True):
        made.append(np.empty_like(array))
        bound.take(name, made[-1])

    def bind_and_run() -> None:
        for name, array in inputs.items():
            bound.give(name, array)
        bound.run()

    bind_and_run()
    if not all(np.array_equal(a, b) for a, b in zip(made, expected, strict=True)):
        raise SystemExit("the ways do not agree")
    return {
        "onnxruntime": lambda: raw.run(outputs, inputs),
        "Session.run": lambda: session.run(inputs),
        "Session.run, may be cancelled": lambda: session.run(inputs, cancel=cancel),
        "Binding, inputs bound anew": bind_and_run,
    }


def timed(call: Callable[[], object]) -> list[float]:
    seconds = []
    for _ in range(_CALLS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("--component", default=None)
    parser.add_argument("--rounds", type=int, default=40)
    asked = parser.parse_args()
    bundle = Bundle.open(asked.bundle)
    component = asked.component or next(iter(bundle.manifest.components))
    cases = [case for case in bundle.golden().cases if case.component == component]
    # The one that runs on the fewest bytes shows the most of what a call costs.
    case = min(cases, key=lambda case: sum(array.nbytes for array in case.inputs.values()))
    with Session(bundle, component=component, threads=1) as session:
        ways = contestants(session, dict(case.inputs))
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(asked.rounds + 1):
            for name, call in ways.items():
                calls = timed(call)
                if round_:  # the first is for caches to fill
                    seconds[name] += calls
    print(f"{component}, golden case {case.name!r}, {asked.rounds * _CALLS} calls each")
    base = statistics.median(seconds["onnxruntime"])
    for name, calls in seconds.items():
        middle = statistics.median(calls)
        more = f"{middle / base:5.2f} {(middle - base) * 1e6:+8.1f} us"
        print(f"{name:30} {middle * 1e6:9.1f} us {more}")


if __name__ == "__main__":
    main()
