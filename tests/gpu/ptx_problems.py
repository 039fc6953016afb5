"""The suite of problems as the kernels of a GPU take them, and more for each of their variants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from moe_export.moe.layer import ExpertsSpec, RouterSpec
from problems import (
    Problem,
    experts_problem,
    experts_problems,
    grouped_problems,
    router_problem,
    router_problems,
    stored_weight_problems,
)

Array = npt.NDArray[Any]

TYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
# Rounding of a result to its type: largest relative and absolute error.
ROUNDING = {"f32": (0.0, 0.0), "f16": (2.0**-11, 2.0**-25), "bf16": (2.0**-8, 0.0)}


@dataclass(frozen=True)
class Case:
    """A problem whose tokens and results are of a type."""

    problem: Problem
    type: str = "f32"

    def __str__(self) -> str:
        return f"{self.problem}{'' if self.type == 'f32' else '-of-' + self.type}"


def gates_first(array: Array) -> Array:
    return np.ascontiguousarray(np.concatenate((array[:, 0::2], array[:, 1::2]), axis=1))


def _rounded(array: Array, type_: str) -> Array:
    return array.astype(TYPES[type_]).astype(np.float32)


def for_gpu(problem: Problem) -> Problem | None:
    """With bfloat16 scales, gates first, a row format that there is; None where there is none."""
    inputs, spec = dict(problem.inputs), problem.spec
    if isinstance(spec, RouterSpec) or problem.op not in ("Experts", "GroupedMatMul"):
        return problem
    how = spec.attributes() if spec else problem.attributes
    stored, block = how.get("weight_format", "f32"), how.get("block_size", 0)
    if any("zeros" in name for name in inputs) or (stored == "int4" and not block):
        return None
    if any(a.dtype == ml_dtypes.int4 and a.shape[-1] % 2 for a in inputs.values()):
        return None
    rows = "bf16" if stored in ("int8", "int4") else how.get("row_format", "f32")
    if stored != "bf16" and rows == "bf16" and stored in ("f32", "f16"):
        rows = "f32"
    for name in inputs:
        if name.endswith("scales"):
            inputs[name] = _rounded(inputs[name], "bf16")
    if spec is None:
        return replace(problem, inputs=inputs, attributes={**how, "row_format": rows})
    assert isinstance(spec, ExpertsSpec)
    if spec.gate_layout == "interleaved":
        for name in {"up", "up_scales", "up_bias"} & set(inputs):
            inputs[name] = gates_first(inputs[name])
    spec = replace(spec, row_format=rows, gate_layout="concatenated")
    return replace(problem, inputs=inputs, spec=spec, attributes=spec.attributes())


def of_type(problem: Problem, type_: str) -> Case:
    """Tokens that are numbers of the type."""
    names = {"Experts": "x", "GroupedMatMul": "x_sorted", "Combine": "y_sorted"}
    name = names[problem.op]
    inputs = {**problem.inputs, name: _rounded(problem.inputs[name], type_)}
    return Case(replace(problem, inputs=inputs), type_)


# How weights are stored, with the rows that go with it.
STORED = [("bf16", 0, "bf16"), ("int8", 0, "bf16"), ("int8", 32, "bf16"), ("int8", 64, "bf16")]
STORED += [("int8", 128, "bf16")]
STORED += [("int4", 32, "bf16"), ("int4", 64, "bf16"), ("int4", 128, "bf16")]
STORED += [(stored, 0, "f32") for stored in ("f32", "f16", "bf16")]
# Tokens and experts that lead to each tile: rows of 0 (by assignment), 16, 32, 64, 128.
SIZES = {"few": (2, 9), "m16": (19, 7), "m32": (20, 2), "m64": (40, 3), "m128": (70, 2)}


def wide_problems() -> list[Case]:
    """Shapes whose rows begin at multiples of 16 bytes but end in the middle of a tile."""
    cases = []
    for stored, block, rows in STORED:
        spec = ExpertsSpec(
            num_experts=1, hidden_size=160, intermediate_size=48, output_size=80,
            weight_format=stored, block_size=block, row_format=rows, has_up_bias=True,
            has_down_bias=True,
        )  # fmt: skip
        for title, (tokens, experts) in SIZES.items():
            here = replace(spec, num_experts=experts)
            name = f"{stored}-block{block}-rows-{rows}-{title}"
            plain = replace(here, gated=False, activation="relu2")
            linear = replace(
                here, gated=False, activation="identity", intermediate_size=0, has_up_bias=False
            )
            for kind, this in (("gated", here), ("plain", plain), ("linear", linear)):
                problem = experts_problem(f"wide-{kind}-{name}", this, num_tokens=tokens)
                cases.append(Case(_known(problem)))
    return cases


def odd_problems() -> list[Case]:
    """A few tokens of sizes that are multiples of nothing: by assignment, element by element."""
    cases = []
    for stored, block, rows in STORED:
        more = stored == "int4"  # whose rows end with a byte
        spec = ExpertsSpec(
            num_experts=9, hidden_size=33 + more, intermediate_size=17 + more, output_size=35,
            weight_format=stored, block_size=block, row_format=rows, has_up_bias=True,
        )  # fmt: skip
        name = f"odd-{stored}-block{block}-rows-{rows}"
        cases.append(Case(_known(experts_problem(name, spec, num_tokens=2))))
    return cases


def _experts(name: str, *, tokens: int, top_k: int = 2, **of: Any) -> Problem:
    return _known(experts_problem(name, ExpertsSpec(**of), num_tokens=tokens, top_k=top_k))


def long_problems() -> list[Case]:
    """Sizes that run every loop of the kernels more than once, and grids of more than one block."""
    wide = {"num_experts": 4, "hidden_size": 704, "intermediate_size": 336, "output_size": 528}
    many = {"num_experts": 3, "hidden_size": 64, "intermediate_size": 400, "output_size": 416}
    tiny = {"hidden_size": 16, "intermediate_size": 16, "output_size": 16}
    broad = {"num_experts": 3, "hidden_size": 1040, "intermediate_size": 1056, "output_size": 16}
    cases = []
    for stored, block, rows in STORED:
        how = {"weight_format": stored, "block_size": block, "row_format": rows}
        name = f"{stored}-block{block}-rows-{rows}"
        cases += [
            Case(_experts(f"long-{name}-T{tokens}", tokens=tokens, **wide, **how))
            for tokens in (2, 15)
        ]
        if block in (0, 32):
            cases.append(Case(_experts(f"many-tiles-{name}", tokens=300, **many, **how)))
    bf16 = {"weight_format": "bf16", "row_format": "bf16"}
    cases += [
        Case(_experts("300-experts", tokens=40, top_k=3, num_experts=300, **tiny, **bf16)),
        Case(_experts("300-experts-T5", tokens=5, top_k=3, num_experts=300, **tiny, **bf16)),
    ]
    for rows in ("bf16", "f32"):
        how = {"weight_format": "bf16", "row_format": rows, "gated": False, "activation": "gelu"}
        problem = _experts(f"broad-rows-{rows}", tokens=7, **broad, **how)
        cases += [of_type(problem, type_) for type_ in ("f32", "f16", "bf16")]
    rng = np.random.default_rng(29)
    for title, assignments, experts in (("long", 2600, 5), ("1100-experts", 60, 1100)):
        ids = rng.integers(-1, experts + 1, size=(assignments // 2, 2)).astype(np.int32)
        how = {"num_experts": experts}
        cases.append(
            Case(Problem(name=title, op="Dispatch", inputs={"topk_ids": ids}, attributes=how))
        )
    return cases


def _known(problem: Problem) -> Problem:
    found = for_gpu(problem)
    assert found is not None
    return found


def typed_problems() -> list[Case]:
    """Tokens of float16 and bfloat16, with every way to round rows."""
    base = ExpertsSpec(num_experts=4, hidden_size=48, intermediate_size=32, output_size=48)
    cases = []
    for type_ in ("f16", "bf16"):
        for stored, rows in (("bf16", "bf16"), ("bf16", "f32"), ("f16", "f32")):
            spec = replace(base, weight_format=stored, row_format=rows)
            on_input = replace(spec, weight_on="input")
            for kind, this in (("", spec), ("-weight-on-input", on_input)):
                for tokens in (3, 21):
                    name = f"{stored}-rows-{rows}{kind}-T{tokens}"
                    cases.append(of_type(experts_problem(name, this, num_tokens=tokens), type_))
        some = [p for p in grouped_problems() if p.op in ("Combine", "GroupedMatMul")]
        cases += [of_type(problem, type_) for problem in some]
    return cases


def router_cases() -> list[Case]:
    rng = np.random.default_rng(23)
    hundred = RouterSpec(num_experts=100, top_k=7, normalize=True)
    many = RouterSpec(num_experts=600, top_k=9, score="sigmoid", normalize=True)
    most = RouterSpec(num_experts=2048, top_k=3)
    specs = (hundred, many, most)
    logits = [2 * rng.normal(size=(5, spec.num_experts)) for spec in specs]
    ties = [np.round(some) for some in logits]
    problems = [
        router_problem(f"{spec.num_experts}-experts{kind}", numbers, spec)
        for spec, *both in zip(specs, logits, ties, strict=True)
        for kind, numbers in zip(("", "-ties"), both, strict=True)
    ]
    return [Case(problem) for problem in [*router_problems(), *problems]]


def all_cases() -> list[Case]:
    suite = [*experts_problems(), *grouped_problems(), *stored_weight_problems()]
    known = [for_gpu(problem) for problem in suite if problem.op != "Linear"]
    cases = router_cases() + [Case(problem) for problem in known if problem is not None]
    return cases + wide_problems() + odd_problems() + long_problems() + typed_problems()
