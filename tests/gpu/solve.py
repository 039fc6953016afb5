"""``python -m gpu.solve``: problems solved in Triton's interpreter, pickles both ways.

A process of its own, because TRITON_INTERPRET has to be set before anybody imports Triton.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from problems import Problem

from . import launches

Array = np.ndarray[Any, Any]


def solve(problem: Problem, bm: int) -> tuple[Array, ...]:
    """``bm``: rows of a tile, or 0: by assignment, or (GroupedMatMul) without vectors."""
    inputs = {name: np.ascontiguousarray(array) for name, array in problem.inputs.items()}
    if problem.op == "Router":
        bias, scale = inputs.get("correction_bias"), inputs.get("expert_scale")
        return launches.route(inputs["router_logits"], problem.spec, bias, scale)
    if problem.op == "Dispatch":
        return launches.dispatch(inputs["topk_ids"], int(problem.attributes["num_experts"]))
    if problem.op == "Combine":
        return (launches.combine(inputs["y_sorted"], inputs["order"], inputs["topk_weights"]),)
    if problem.op == "GroupedMatMul":
        return (grouped_matmul(problem.attributes, inputs, bm),)
    return (experts(problem.spec, inputs, bm),)


def rows_of(row_format: str) -> str:
    return "bf16" if row_format == "bf16" else "fp32"


def is_vector(m: launches.Matrices, features: int) -> bool:
    return m.columns % 16 == 0 and m.values.shape[-1] % 16 == 0 and features % 16 == 0


def grouped_matmul(how: Mapping[str, Any], inputs: Mapping[str, Array], bm: int) -> Array:
    m = launches.matrices(inputs["weights"], inputs.get("scales"), how.get("block_size", 0))
    rows = rows_of(how.get("row_format", "f32"))
    tile = bm if rows == "bf16" and is_vector(m, m.rows) else 0
    return launches.grouped_matmul(
        inputs["x_sorted"], inputs["expert_offsets"], m, inputs.get("bias"), rows, tile
    )


def experts(spec: Any, inputs: Mapping[str, Array], bm: int) -> Array:
    up_bias, up = inputs.get("up_bias"), None
    if "up" in inputs:
        scales, values = inputs.get("up_scales"), inputs["up"]
        if spec.gated and spec.gate_layout == "interleaved":
            # The kernels take gates and then values; whoever stores weights for them sorts the
            # rows.
            values, scales, up_bias = (gates_first(a) for a in (values, scales, up_bias))
        up = launches.matrices(values, scales, spec.block_size)
    down = launches.matrices(inputs["down"], inputs.get("down_scales"), spec.block_size)
    rows = rows_of(spec.row_format)
    vector = rows == "bf16" and is_vector(down, down.rows)
    vector = vector and (up is None or is_vector(up, down.columns))
    if not len(inputs["x"]):
        return np.zeros((0, down.rows), np.float32)
    call = launches.Experts(spec, up, down, up_bias, inputs.get("down_bias"), rows, bm, vector)
    return call(inputs["x"], inputs["topk_ids"], inputs["topk_weights"])


def gates_first(array: Array | None) -> Array | None:
    if array is None:
        return None
    return np.ascontiguousarray(np.concatenate((array[:, 0::2], array[:, 1::2]), axis=1))


def main() -> None:
    asked = pickle.load(sys.stdin.buffer)  # noqa: S301, from the test that started this
    answers = {key: solve(problem, bm) for key, (problem, bm) in asked.items()}
    pickle.dump(answers, sys.stdout.buffer)


if __name__ == "__main__":
    main()
