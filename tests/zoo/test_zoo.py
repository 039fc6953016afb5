"""The zoo is what its labels say: each claim is checked against the block itself."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from moe_export.moe.layer import ExpertsSpec, RouterSpec

from . import (
    CASES,
    LOOK_ALIKES,
    RECOGNISED,
    REGISTERED,
    ZooCase,
    canonical_experts,
    canonical_router,
    readings,  # noqa: F401  (enters the readers)
)
from .oracle import Verdict, compute, rounding, route, router_logits
from .reading import Array, read

KNOWN = RECOGNISED + REGISTERED
BY_NAME = {case.name: case for case in CASES + REGISTERED}


def every(cases: tuple[ZooCase, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tokens(case: ZooCase, *, count: int | None = None) -> torch.Tensor:
    """Float64 inputs of the case's shape, or of ``[count, H]`` in the case's rank."""
    shape = case.input_shape
    if count is not None:
        shape = (*([1] * (len(shape) - 2)), count, shape[-1])
    generator = torch.Generator().manual_seed(7)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def run(block: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out = block(x)
    return out[0] if isinstance(out, tuple) else out


def flat(x: torch.Tensor) -> Array:
    return x.reshape(-1, x.shape[-1]).numpy()


def judged(case: ZooCase, x: torch.Tensor) -> tuple[Array, Verdict, Array]:
    """The block's own output in float64, what its label says it is, and how far they may differ."""
    assert case.router is not None
    assert case.experts is not None
    block = case.build().double()
    reading = read(case.name, block)
    verdict = compute(case.router, case.experts, reading, flat(x))
    bound = rounding(verdict, reading, flat(x))
    if case.name == "router_in_float32":
        # Only the softmax is in f32: its E terms, not the E + H + I + Hout of the bound in f64.
        share = reading.down.shape[0] / (sum(reading.down.shape) + x.shape[-1])
        bound *= share * np.finfo(np.float32).eps / np.finfo(np.float64).eps
    return flat(run(block, x)), verdict, bound


def distance(a: Array, b: Array) -> Array:
    return np.abs(a - b).max(axis=-1)


@every(KNOWN)
def test_block_computes_what_its_label_says(case: ZooCase) -> None:
    y, verdict, bound = judged(case, tokens(case, count=32))
    assert verdict.margin > 1e-7, "a near tie would make the judgement a matter of luck"
    assert (distance(y, verdict.y) <= bound).all()
    assert bound.max() < 1e-2 * np.abs(y).max(), "a bound that admits anything proves nothing"


@every(KNOWN)
def test_sizes_in_the_label_are_the_block_s_own(case: ZooCase) -> None:
    assert case.router is not None
    assert case.experts is not None
    reading = read(case.name, case.build().double())
    experts, size = case.experts, case.experts.intermediate_size
    shape = (experts.num_experts, experts.output_size, size or experts.hidden_size)
    assert reading.down.shape == shape
    assert reading.router.shape[0] == case.router.num_experts == experts.num_experts
    assert case.input_shape[-1] == experts.hidden_size
    assert (reading.gate is not None) == experts.gated
    assert (reading.up is None) == (size == 0)
    assert (reading.up_bias is not None) == experts.has_up_bias
    assert (reading.down_bias is not None) == experts.has_down_bias
    assert (reading.correction_bias is not None) == case.router.has_correction_bias
    assert (reading.expert_scale is not None) == case.router.has_expert_scale


@every(KNOWN)
def test_shared_path_is_claimed_exactly_where_something_is_added(case: ZooCase) -> None:
    reading = read(case.name, case.build().double())
    assert np.any(reading.beside(flat(tokens(case)))) == case.has_shared_path


@every(RECOGNISED)
def test_routing_is_lively(case: ZooCase) -> None:
    """Every expert is some token's, and none is nearly everybody's first."""
    assert case.router is not None
    reading = read(case.name, case.build().double())
    logits = router_logits(reading, flat(tokens(case, count=300)))
    chosen = [route(case.router, row.tolist(), reading)[0] for row in logits]
    visits = Counter(e for ids in chosen for e in ids)
    firsts = Counter(ids[0] for ids in chosen)
    assert set(visits) == set(range(case.router.num_experts))
    assert max(firsts.values()) < 0.8 * len(chosen)


def other_routers(router: RouterSpec) -> Iterator[RouterSpec]:
    """Neighbours of ``router``: one attribute away."""
    yield replace(router, normalize=not router.normalize)
    yield replace(router, routed_scaling=router.routed_scaling * 1.25)
    for score in ("softmax", "sigmoid", "softmax_topk", "sigmoid_topk"):
        yield replace(router, score=score)
    if router.top_k > 1:
        yield replace(router, top_k=router.top_k - 1)
    if router.top_k < router.num_experts:
        yield replace(router, top_k=router.top_k + 1)
    yield replace(router, normalize_eps=0.0)
    yield replace(router, normalize_min=0.0)
    yield replace(router, has_correction_bias=False)
    yield replace(router, has_expert_scale=False)
    yield replace(router, num_groups=1, topk_groups=1)
    if router.num_groups > 1:
        other = "max" if router.group_score == "top2_sum" else "top2_sum"
        yield replace(router, group_score=other)


def other_experts(experts: ExpertsSpec) -> Iterator[ExpertsSpec]:
    """Neighbours of ``experts``: one attribute away."""
    yield replace(experts, weight_on="input" if experts.weight_on == "output" else "output")
    if experts.intermediate_size == 0:
        return
    for activation in ("silu", "gelu", "gelu_tanh", "relu", "relu2", "identity"):
        yield replace(experts, activation=activation)
    if experts.activation == "swiglu_clamped":
        yield replace(experts, alpha=experts.alpha * 1.1)
        yield replace(experts, limit=experts.limit * 1.1)


@every(KNOWN)
def test_no_other_label_would_do(case: ZooCase) -> None:
    """One attribute changed is seen in the output, unless the two labels mean the same."""
    router, experts = case.router, case.experts
    assert router is not None
    assert experts is not None
    x = tokens(case, count=32)
    y, _, bound = judged(case, x)
    reading = read(case.name, case.build().double())
    canonical = canonical_router(router), canonical_experts(experts, router)
    neighbours = [(r, experts) for r in other_routers(router)]
    neighbours += [(router, e) for e in other_experts(experts)]
    for r, e in neighbours:
        alike = (canonical_router(r), canonical_experts(e, r)) == canonical
        seen = (distance(y, compute(r, e, reading, flat(x)).y) > bound).any()
        assert seen != alike, f"{r.describe()}; {e}"


@every(tuple(case for case in KNOWN if case.experts and case.experts.gated))
def test_gate_and_up_are_not_interchangeable(case: ZooCase) -> None:
    assert case.router is not None
    assert case.experts is not None
    x = tokens(case)
    y, _, bound = judged(case, x)
    reading = read(case.name, case.build().double())
    swapped = replace(
        reading,
        gate=reading.up,
        up=reading.gate,
        gate_bias=reading.up_bias,
        up_bias=reading.gate_bias,
    )
    other = compute(case.router, case.experts, swapped, flat(x)).y
    assert (distance(y, other) > bound).any()


@every(KNOWN)
def test_a_token_does_not_see_the_others(case: ZooCase) -> None:
    x = tokens(case, count=12)
    y, _, bound = judged(case, x)
    block = case.build().double()
    for t in range(12):
        alone = flat(run(block, x[..., t : t + 1, :]))
        assert distance(alone[0], y[t]) <= 2 * bound[t]


@every(CASES + REGISTERED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_block_keeps_dtype_and_rank(case: ZooCase, dtype: torch.dtype) -> None:
    x = tokens(case).to(dtype)
    y = run(case.build().to(dtype), x)
    width = case.experts.output_size if case.experts else y.shape[-1]
    rows = x.shape[:-1] if y.dim() == x.dim() else (math.prod(x.shape[:-1]),)
    assert y.dtype == dtype
    assert y.shape == (*rows, width)
    assert torch.isfinite(y).all()


@every(tuple(case for case in CASES + REGISTERED if case.name != "noisy_router"))
def test_eval_is_deterministic_and_so_is_building(case: ZooCase) -> None:
    x = tokens(case)
    block, twin = case.build().double(), case.build().double()
    assert not block.training
    assert torch.equal(run(block, x), run(block, x))
    assert torch.equal(run(block, x), run(twin, x))


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    BY_NAME["mixtral_like"].build()
    assert torch.equal(torch.rand(4), expected)


def test_zoo_holds_the_shapes_that_tell_nothing() -> None:
    """I = H, 2I = H and E = H: where a reader of shapes alone must guess."""
    sizes = [(c.experts, c.router) for c in RECOGNISED if c.experts and c.router]
    assert any(e.intermediate_size == e.hidden_size for e, _ in sizes)
    assert any(2 * e.intermediate_size == e.hidden_size for e, _ in sizes)
    assert any(r.num_experts == e.hidden_size for e, r in sizes)


def test_case_names_are_unique_and_expectations_whole() -> None:
    assert len(BY_NAME) == len(CASES) + len(REGISTERED)
    for case in RECOGNISED:
        assert (case.router, case.experts, case.refused_because).count(None) == 1
    for case in LOOK_ALIKES:
        assert case.router is case.experts is None
        assert re.compile(case.refused_because or "(")


# What a hasty reader would say of each look-alike: score and renormalisation, then the experts.
TEMPTING = {
    "smoothed_weights": ({"score": "softmax", "normalize": True}, "silu"),
    "noisy_router": ({"score": "softmax_topk"}, "relu"),
    "magnitude_choice": ({"score": "softmax"}, "gelu"),
    "squared_weights": ({"score": "softmax"}, "silu"),
    "shifted_ids": ({"score": "softmax", "normalize": True}, "relu"),
    "capacity_drop": ({"score": "softmax", "top_k": 1}, "relu"),
    "expert_choice": ({"score": "softmax"}, "gelu"),
}


@pytest.mark.parametrize("name", TEMPTING)
def test_look_alike_is_not_what_it_looks_like(name: str) -> None:
    case, (attributes, activation) = BY_NAME[name], TEMPTING[name]
    block = case.build().double()
    reading = read(name, block)
    assert reading.up is not None
    num_experts, inner, hidden = reading.up.shape
    experts = ExpertsSpec(
        num_experts=num_experts,
        hidden_size=hidden,
        intermediate_size=inner,
        output_size=hidden,
        activation=activation,
        gated=False,
    )
    x = tokens(case)
    router = RouterSpec(num_experts=num_experts, **{"top_k": 2, **attributes})
    neighbours = [router, *(r for r in other_routers(router))]
    for r in neighbours:
        verdict = compute(r, experts, reading, flat(x))
        wrong = distance(flat(run(block, x)), verdict.y) > 1e-3 * np.abs(verdict.y).max()
        assert wrong.mean() > 0.2, r.describe()


def test_noisy_router_gives_another_answer_every_time() -> None:
    case = BY_NAME["noisy_router"]
    block, x = case.build().double(), tokens(case)
    assert not torch.allclose(run(block, x), run(block, x))


def test_uneven_experts_cannot_be_stacked() -> None:
    block = BY_NAME["uneven_experts"].build()
    shapes = {tuple(p.shape) for name, p in block.named_parameters() if name.endswith(".0.weight")}
    assert len(shapes) == 4


@pytest.mark.parametrize("name", ["capacity_drop", "expert_choice"])
def test_outcome_of_a_token_depends_on_the_others(name: str) -> None:
    case = BY_NAME[name]
    block, x = case.build().double(), tokens(case)
    together = flat(run(block, x))
    alone = [flat(run(block, x.reshape(-1, 1, x.shape[-1])[t : t + 1]))[0] for t in range(14)]
    assert (distance(np.array(alone), together) > 1e-3).any()


def test_capacity_drops_tokens() -> None:
    case = BY_NAME["capacity_drop"]
    y = run(case.build().double(), tokens(case))
    dropped = (y == 0).all(dim=-1)
    assert dropped.any()
    assert not dropped.all()


def test_plain_stack_uses_every_layer_for_every_token() -> None:
    case = BY_NAME["plain_stack"]
    block, x = case.build().double(), tokens(case)
    expected = x
    for layer in block.get_submodule("layers").children():
        expected = expected + layer(expected)
    expected = block.get_submodule("gate")(expected).softmax(-1)
    assert torch.equal(run(block, x), expected)
