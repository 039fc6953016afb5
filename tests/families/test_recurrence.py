"""Recurrences one token at a time are what Transformers computes in chunks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers")

from transformers import MiniMaxConfig, MiniMaxModel
from transformers.models.granitemoehybrid import modeling_granitemoehybrid as granite
from transformers.models.jamba import modeling_jamba as jamba
from transformers.models.kimi_linear import modeling_kimi_linear as kimi
from transformers.models.qwen3_next import modeling_qwen3_next as qwen

from moe_export.load.pretrained.cache import empty
from moe_export.load.pretrained.lightning import in_lightning_steps
from moe_export.load.pretrained.recurrence import delta_rule, selective_scan, state_space

# Longer than a chunk of 64, so that states pass from one to the next.
LENGTH = 70

# Float32 sums over some hundred terms, in another order.
TOLERANCE = 256 * torch.finfo(torch.float32).eps


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def delta_inputs(per_row):
    heads, wide = 4, 16
    g = -F.softplus(drawn(2, LENGTH, heads, *([wide] if per_row else []), seed=3)) / 4
    keys = heads if per_row else 2  # two heads of values share one of keys
    return {
        "query": drawn(2, LENGTH, keys, wide, seed=1),
        "key": drawn(2, LENGTH, keys, wide, seed=2),
        "value": drawn(2, LENGTH, heads, 8, seed=4),
        "g": g,
        "beta": drawn(2, LENGTH, heads, seed=5).sigmoid(),
        "initial_state": drawn(2, heads, wide, 8, seed=6),
        "output_final_state": True,
        "use_qk_l2norm_in_kernel": True,
    }


def require_same(made, expected):
    for mine, other in zip(made, expected, strict=True):
        assert mine.shape == other.shape
        assert (mine - other).abs().max() <= TOLERANCE * other.abs().max()


def test_the_gated_delta_rule_is_that_of_qwen():
    given = delta_inputs(per_row=False)
    require_same(delta_rule(**given), qwen.torch_chunk_gated_delta_rule(**given))


def test_a_decay_for_each_row_of_the_state_is_that_of_kimi():
    given = delta_inputs(per_row=True)
    require_same(delta_rule(**given), kimi.chunk_kimi_delta_attention(**given))


def test_the_state_space_is_that_of_mamba_2():
    heads, wide, size = 4, 8, 6
    given = {
        "hidden_states": drawn(2, LENGTH, heads, wide),
        "dt": drawn(2, LENGTH, heads, seed=1),
        "A": -drawn(heads, seed=2).exp(),
        "B": drawn(2, LENGTH, 2, size, seed=3),
        "C": drawn(2, LENGTH, 2, size, seed=4),
        "D": drawn(heads, seed=5),
        "dt_bias": drawn(heads, seed=6),
        "initial_states": drawn(2, heads, wide, size, seed=7),
        "dt_limit": (0.1, 2.0),
    }
    more = {"chunk_size": 16, "dt_softplus": True, "return_final_states": True}
    require_same(state_space(**given), granite.mamba2_chunk_scan(**given, **more))


def test_the_selective_scan_is_that_of_mamba_1_and_goes_on_from_a_state():
    channels, size = 6, 5
    given = {
        "hidden_states": drawn(2, channels, LENGTH),
        "dt": drawn(2, channels, LENGTH, seed=1),
        "A": -drawn(channels, size, seed=2).exp(),
        "B": drawn(2, size, LENGTH, seed=3),
        "C": drawn(2, size, LENGTH, seed=4),
        "D": drawn(channels, seed=5),
        "z": drawn(2, channels, LENGTH, seed=6),
        "delta_bias": drawn(channels, seed=7),
    }
    more = {"delta_softplus": True, "return_last_state": True}
    whole = jamba.mamba_selective_scan(**given, **more)
    require_same(selective_scan(**given), whole)

    def part(start, end):
        times = ("hidden_states", "dt", "B", "C", "z")
        return {n: x[..., start:end] if n in times else x for n, x in given.items()}

    first, state = selective_scan(**part(0, 30))
    second, last = selective_scan(**part(30, LENGTH), initial_state=state)
    require_same((torch.cat([first, second], dim=-1), last), whole)


def test_lightning_attention_is_that_of_minimax_and_goes_on_from_a_state():
    config = MiniMaxConfig(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        intermediate_size=32,
        vocab_size=16,
        layer_types=["linear_attention", "full_attention"],
        block_size=16,
    )
    model = MiniMaxModel(config).eval()
    attention = model.layers[0].self_attn
    rows, seen = drawn(2, LENGTH, 32), torch.ones(2, LENGTH)
    seen[0, :5] = 0
    with torch.no_grad():
        expected = attention(rows, None, seen)
        in_lightning_steps(model)
        in_lightning_steps(model)  # a second time leaves all as it is
        cache = empty(model, ["lightning", "full_attention"])
        made = [
            attention(rows[:, start:end], attention_mask=seen[:, start:end], cache=cache)
            for start, end in ((0, 30), (30, 31), (31, LENGTH))
        ]
    require_same((torch.cat([y for y, _ in made], dim=1), made[-1][1]), expected)
