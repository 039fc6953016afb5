"""A node that cannot run is refused with its name, the tensor or attribute, and what is meant."""

from __future__ import annotations

import numpy as np
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from moe_export.moe import packing

from . import nodes

pytestmark = pytest.mark.usefixtures("library")

REFUSALS = (
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.RuntimeException,
)


def f32(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def i32(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.int32)


T, K, E, H, I = 3, 2, 4, 8, 6  # noqa: E741
EXPERTS = {
    "x": f32(T, H),
    "topk_ids": i32(T, K),
    "topk_weights": f32(T, K),
    "up": f32(E, 2 * I, H),
    "down": f32(E, H, I),
}
INT8 = EXPERTS | {
    "up": np.ones((E, 2 * I, H), np.int8),
    "up_scales": f32(E, 2 * I, 1),
    "down": np.ones((E, H, I), np.int8),
    "down_scales": f32(E, H, 1),
}
PANELS = EXPERTS | {
    "up": packing.pack(EXPERTS["up"], gated=True),
    "down": packing.pack(EXPERTS["down"]),
}
GROUPED = {"x_sorted": f32(6, H), "expert_offsets": i32(E + 1), "weights": f32(E, 5, H)}
COMBINE = {"y_sorted": f32(6, H), "order": i32(6), "topk_weights": f32(T, K)}
HEADS = {"x": f32(2, 3, 16), "cos": f32(2, 3, 4), "sin": f32(2, 3, 4), "norm": f32(8)}
CACHED = {
    "query": f32(2, 3, 32),
    "key": f32(2, 3, 16),
    "value": f32(2, 3, 16),
    "mask": np.ones((2, 1, 3, 7), bool),
    "past_key": f32(4, 2, 2, 8),
    "past_value": f32(4, 2, 2, 8),
}
LOGITS = {"router_logits": f32(T, E)}

int8 = {"weight_format": "int8"}
panels = {"weight_layout": "panels"}

# op, attributes, inputs, and words of the refusal in their order.
MALFORMED = {
    "activation": ("Experts", {"activation": "swish"}, EXPERTS, "'activation' is 'swish'.*silu"),
    "gated": ("Experts", {"gated": 2}, EXPERTS, "'gated' is 2, expected 0 or 1"),
    "no gate": (
        "Experts",
        {"gated": 0, "activation": "swiglu_clamped"},
        EXPERTS,
        "'activation'.*needs gated",
    ),
    "an integer for a string": ("Experts", {"activation": 3}, EXPERTS, "an integer.*a string"),
    "a string for an integer": ("Experts", {"gated": "yes"}, EXPERTS, "a string.*an integer"),
    "an integer for a float": ("Experts", {"alpha": 2}, EXPERTS, "an integer.*a float"),
    "weight format": ("Experts", {"weight_format": "fp4"}, EXPERTS, "'weight_format' is 'fp4'"),
    "row format": ("Experts", {"row_format": "int8"}, EXPERTS, "'row_format' is 'int8'.*'f32'"),
    "layout": ("Experts", {"weight_layout": "tiles"}, EXPERTS, "'weight_layout' is 'tiles'"),
    "ragged blocks": ("Experts", int8 | {"block_size": 48}, INT8, "'block_size' is 48.*of 32"),
    "negative blocks": ("Experts", int8 | {"block_size": -1}, INT8, "'block_size' is -1"),
    "blocks of floats": ("Experts", {"block_size": 32}, EXPERTS, "'block_size' is 32, expected 0"),
    "wide ids": ("Experts", {}, EXPERTS | {"topk_ids": np.zeros((T, K), np.int64)}, "int64.*topk"),
    "wide weights": (
        "Experts",
        {},
        EXPERTS | {"up": np.ones((E, 2 * I, H))},
        "'up' is of another type",
    ),
    "weights of another format": (
        "Experts",
        {},
        EXPERTS | {"up": EXPERTS["up"].astype("f2"), "down": EXPERTS["down"].astype("f2")},
        r"'up' is float16 \[4, 12, 8\], expected float32",
    ),
    "weights of two formats": (
        "Experts",
        {},
        EXPERTS | {"down": f32(E, H, I).astype("f2")},
        "'down' is float16",
    ),
    "rank of up": ("Experts", {}, EXPERTS | {"up": f32(2 * I, H)}, r"'up' is float32 \[12, 8\]"),
    "an odd row": ("Experts", {}, EXPERTS | {"up": f32(E, 13, H)}, "'up'.*even number of rows"),
    "no experts": ("Experts", {}, EXPERTS | {"up": f32(0, 12, H), "down": f32(0, H, I)}, "'up'"),
    "columns of down": ("Experts", {}, EXPERTS | {"down": f32(E, H, 7)}, "'down' has.*7.*I=6"),
    "experts of down": ("Experts", {}, EXPERTS | {"down": f32(5, H, I)}, "'down' has 5.*has 4"),
    "columns of x": ("Experts", {}, EXPERTS | {"x": f32(T, 9)}, r"'x' is float32 \[3, 9\].*H=8"),
    "rank of x": ("Experts", {}, EXPERTS | {"x": f32(T, H, 1)}, r"'x' is.*expected float32 \[T, H"),
    "rows of ids": ("Experts", {}, EXPERTS | {"topk_ids": i32(2, K)}, "'topk_ids' is.*T=3"),
    "columns of weights": ("Experts", {}, EXPERTS | {"topk_weights": f32(T, 3)}, "K=2"),
    "up bias": ("Experts", {}, EXPERTS | {"up_bias": f32(E, I)}, "'up_bias' is.*2I=12"),
    "down bias": ("Experts", {}, EXPERTS | {"down_bias": f32(E, 9)}, "'down_bias' is.*Hout=8"),
    "scales of floats": ("Experts", {}, EXPERTS | {"up_scales": f32(E, 12, 1)}, "'up_scales' is"),
    "no scales": (
        "Experts",
        int8,
        {name: array for name, array in INT8.items() if name != "up_scales"},
        "'up_scales' is missing",
    ),
    "blocks of scales": (
        "Experts",
        int8,
        INT8 | {"up_scales": f32(E, 12, 2)},
        r"'up_scales' is float32 \[4, 12, 2\].*blocks=1",
    ),
    "floats for panels": ("Experts", panels, EXPERTS, "'up' is float32.*expected uint8"),
    "noise for panels": ("Experts", panels, PANELS | {"up": np.zeros(99, np.uint8)}, "'up' does"),
    "half a header": ("Experts", panels, PANELS | {"up": PANELS["up"][:40]}, "'up' does not"),
    "panels cut short": ("Experts", panels, PANELS | {"down": PANELS["down"][:-64]}, "'down' does"),
    "panels without gates": ("Experts", panels, PANELS | {"up": PANELS["down"]}, "'up' holds"),
    "panels with gates": ("Experts", panels, PANELS | {"down": PANELS["up"]}, "'down' holds"),
    "panels of another format": (
        "Experts",
        panels | {"weight_format": "bf16"},
        PANELS,
        "'up' holds f32.*say bf16",
    ),
    "panels and scales": ("Experts", panels, PANELS | {"up_scales": f32(E, 12, 1)}, "'up_scales'"),
    "top_k missing": ("Router", {}, LOGITS, "'top_k' is missing"),
    "top_k too large": ("Router", {"top_k": 5}, LOGITS, "'router_logits'.*top_k 5.*4 experts"),
    "top_k beyond int32": ("Router", {"top_k": 1 << 40}, LOGITS, "'top_k' is 1099511627776"),
    "groups": ("Router", {"top_k": 1, "num_groups": 3}, LOGITS, "'router_logits'.*3 groups"),
    "best groups": ("Router", {"top_k": 1, "topk_groups": 2}, LOGITS, "'topk_groups' is 2 of 1"),
    "groups of one": (
        "Router",
        {"top_k": 1, "num_groups": 4, "group_score": "top2_sum"},
        LOGITS,
        "'router_logits'.*top2_sum",
    ),
    "rank of logits": ("Router", {"top_k": 1}, {"router_logits": f32(1, T, E)}, "'router_logits'"),
    "correction bias": (
        "Router",
        {"top_k": 1},
        LOGITS | {"correction_bias": f32(5)},
        r"'correction_bias' is float32 \[5\].*E=4",
    ),
    "num_experts": ("Dispatch", {}, {"topk_ids": i32(T, K)}, "'num_experts' is missing"),
    "rank of ids": ("Dispatch", {"num_experts": E}, {"topk_ids": i32(T)}, "'topk_ids' is"),
    "offsets": ("GroupedMatMul", {}, GROUPED | {"expert_offsets": i32(4)}, r"E\+1=5"),
    "grouped columns": ("GroupedMatMul", {}, GROUPED | {"x_sorted": f32(6, 9)}, "'x_sorted'.*H=8"),
    "grouped bias": ("GroupedMatMul", {}, GROUPED | {"bias": f32(5)}, "'bias'.*E=4, N=5"),
    "order": ("Combine", {}, COMBINE | {"order": i32(5)}, "'order'.*S=6"),
    "sorted rows": ("Combine", {}, COMBINE | {"y_sorted": f32(5, H)}, "'y_sorted'.*S=6"),
    "linear columns": ("Linear", {}, {"x": f32(2, 3, 8), "weight": f32(5, 9)}, "'x'.*H=9"),
    "linear rank": ("Linear", {}, {"x": f32(2, 8), "weight": f32(1, 5, 8)}, "'weight'.*N, H"),
    "linear bias": (
        "Linear",
        {},
        {"x": f32(2, 8), "weight": f32(5, 8), "bias": f32(8)},
        "'bias'.*N=5",
    ),
    "rank of query": ("CachedAttention", {}, CACHED | {"query": f32(6, 32)}, "'query'.*B, S"),
    "heads that share nothing": (
        "CachedAttention",
        {},
        CACHED | {"query": f32(2, 3, 40)},
        "'query'.*cannot share the 2 of past_key",
    ),
    "no heads": (
        "CachedAttention",
        {},
        CACHED | {"past_key": f32(4, 2, 0, 8), "past_value": f32(4, 2, 0, 8)},
        "'key'.*M.d=0",
    ),
    "rows of key": ("CachedAttention", {}, CACHED | {"key": f32(2, 2, 16)}, "'key'.*S=3"),
    "width of value": ("CachedAttention", {}, CACHED | {"value": f32(2, 3, 8)}, "'value'.*v=16"),
    "batch of a cache": (
        "CachedAttention",
        {},
        CACHED | {"past_key": f32(4, 3, 2, 8)},
        "'past_key'.*B=2",
    ),
    "length of a cache": (
        "CachedAttention",
        {},
        CACHED | {"past_value": f32(5, 2, 2, 8)},
        "'past_value'.*P=4",
    ),
    "keys of a mask": (
        "CachedAttention",
        {},
        CACHED | {"mask": np.ones((2, 1, 3, 6), bool)},
        r"'mask' is bool.*P\+S=7",
    ),
    "heads of a mask": (
        "CachedAttention",
        {},
        CACHED | {"mask": np.ones((2, 4, 3, 7), bool)},
        "'mask'.*1=1",
    ),
    "a mask of another batch": (
        "CachedAttention",
        {},
        CACHED | {"mask": np.ones((3, 1, 3, 7), bool)},
        "'mask'.*=2",
    ),
    "a scale of text": ("CachedAttention", {"scale": "root"}, CACHED, "a string.*a float"),
    "heads missing": ("RotaryHeads", {}, HEADS, "'num_heads' is missing"),
    "rank of rows of heads": (
        "RotaryHeads",
        {"num_heads": 2},
        HEADS | {"x": f32(6, 16)},
        "'x'.*B, S",
    ),
    "heads of several sizes": ("RotaryHeads", {"num_heads": 3}, HEADS, "'x'.*not 3 heads"),
    "batch of angles": (
        "RotaryHeads",
        {"num_heads": 2},
        HEADS | {"cos": f32(1, 3, 4)},
        "'cos'.*B=2",
    ),
    "sines and cosines": (
        "RotaryHeads",
        {"num_heads": 2},
        HEADS | {"sin": f32(2, 3, 3)},
        "'sin'.*h=4",
    ),
    "more pairs than numbers": (
        "RotaryHeads",
        {"num_heads": 2},
        HEADS | {"cos": f32(2, 3, 5), "sin": f32(2, 3, 5)},
        "'cos'.*pairs.*the 8 numbers",
    ),
    "norm of a head": (
        "RotaryHeads",
        {"num_heads": 2},
        HEADS | {"norm": f32(16)},
        "'norm'.*d=8",
    ),
    "two matrices": ("Linear", panels, {"x": f32(2, 8), "weight": PANELS["down"]}, "expected 1"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_node_that_cannot_run_is_refused_by_name(name):
    op, attributes, inputs, words = MALFORMED[name]
    with pytest.raises(REFUSALS, match=f"(?s)(?=.*a_node).*{words}"):
        nodes.run(op, attributes, inputs)


@pytest.mark.parametrize("name", [name for name, case in MALFORMED.items() if "up" in case[2]])
def test_weights_that_are_fed_are_refused_in_the_same_words(name):
    op, attributes, inputs, words = MALFORMED[name]
    with pytest.raises(REFUSALS, match=f"(?s)(?=.*a_node).*{words}"):
        nodes.run(op, attributes, inputs, fed=inputs)


def test_a_session_outlives_a_refusal():
    made = nodes.session(nodes.model("Combine", {}, COMBINE, fed=COMBINE))
    (before,) = made.run(None, COMBINE)
    with pytest.raises(REFUSALS):
        made.run(None, COMBINE | {"order": i32(5)})
    (after,) = made.run(None, COMBINE)
    np.testing.assert_array_equal(before, after)


def test_a_node_without_a_name_says_so():
    with pytest.raises(REFUSALS, match="Dispatch node without a name: attribute 'num_experts'"):
        nodes.session(nodes.model("Dispatch", {}, {"topk_ids": i32(1, 1)}, fed=(), name=""))
