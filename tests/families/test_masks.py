"""What a row of the decoder sees, row by row."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from moe_export.load.pretrained.masks import (
    CHUNKED,
    FULL,
    LINEAR,
    REFERENCE,
    SLIDING,
    masks_of,
    narrowed,
)


def config(**facts):
    return SimpleNamespace(_attn_implementation="sdpa", **facts)


def seen(facts, kind=None, *, past=0, rows=6, padding=0):
    """For each row the keys it sees, of a prompt with padding on its left."""
    mask = torch.ones(1, past + rows, dtype=torch.int64)
    mask[0, :padding] = 0
    made = masks_of(config(**facts), mask, torch.zeros(1, rows, 4), past)
    made = made if kind is None else made[kind]
    return [row.nonzero().flatten().tolist() for row in made[0, 0]]


def test_a_row_sees_itself_and_what_came_before():
    assert seen({}, rows=3) == [[0], [0, 1], [0, 1, 2]]
    assert seen({}, past=2, rows=1) == [[0, 1, 2]]


def test_nobody_sees_padding_but_padding_itself():
    assert seen({}, rows=3, padding=1) == [[0], [1], [1, 2]]


def test_a_window_counts_the_row_itself():
    facts = {"sliding_window": 2}
    assert seen(facts, rows=4) == [[0], [0, 1], [1, 2], [2, 3]]
    assert seen(facts, past=3, rows=1) == [[2, 3]]


def test_a_window_that_is_not_used_hides_nothing():
    assert seen({"sliding_window": 2, "use_sliding_window": False}, rows=3)[2] == [0, 1, 2]


def test_layers_of_two_kinds_get_a_mask_each():
    facts = {"layer_types": [SLIDING, FULL], "sliding_window": 2}
    assert seen(facts, FULL)[5] == [0, 1, 2, 3, 4, 5]
    assert seen(facts, SLIDING)[5] == [4, 5]


def test_chunks_begin_at_the_first_token_that_is_no_padding():
    facts = {"layer_types": [CHUNKED], "attention_chunk_size": 2}
    assert seen(facts, CHUNKED, rows=5) == [[0], [0, 1], [2], [2, 3], [4]]
    assert seen(facts, CHUNKED, rows=5, padding=1) == [[0], [1], [1, 2], [3], [3, 4]]


def images_seen(tokens, facts=None, *, past=0, padding=0):
    """For each row the keys it sees in a layer with a window of 3; ``tokens``: 1 is an image's."""
    facts = {"layer_types": [SLIDING, FULL], "sliding_window": 3} | (facts or {})
    mask = torch.ones(1, past + len(tokens), dtype=torch.int64)
    mask[0, :padding] = 0
    rows = torch.zeros(1, len(tokens), 4)
    kinds = torch.tensor([tokens])
    made = masks_of(config(**facts), mask, rows, past, image_tokens=kinds)[SLIDING]
    return [row.nonzero().flatten().tolist() for row in made[0, 0]]


def test_rows_of_an_image_see_what_follows_in_it():
    both = {"use_bidirectional_attention": "vision"}
    tokens = [0, 1, 1, 0, 1]
    assert images_seen(tokens) == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert images_seen(tokens, both) == [[0], [0, 1, 2], [0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_what_came_before_counts_as_text():
    both = {"use_bidirectional_attention": "vision"}
    assert images_seen([1, 1], both, past=2) == [[0, 1, 2, 3], [1, 2, 3]]


def behind(prompt, *, past, rows, padding=0):
    """What rows see in a layer that looks at all of the prompt, with a window of 2 behind it."""
    facts = {"layer_types": [REFERENCE], "sliding_window": 2}
    mask = torch.ones(1, past + rows, dtype=torch.int64)
    mask[0, :padding] = 0
    length = None if prompt is None else torch.tensor([[prompt]])
    made = masks_of(config(**facts), mask, torch.zeros(1, rows, 4), past, prompt=length)
    return [row.nonzero().flatten().tolist() for row in made[REFERENCE][0, 0]]


def test_a_prompt_is_seen_whole_and_what_follows_it_within_a_window():
    assert behind(3, past=0, rows=3) == [[0], [0, 1], [0, 1, 2]]
    assert behind(3, past=3, rows=3) == [[0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 4, 5]]
    assert behind(3, past=7, rows=1) == [[0, 1, 2, 6, 7]]


def test_the_length_of_a_prompt_is_counted_without_padding():
    assert behind(3, past=6, rows=1, padding=2) == [[2, 3, 4, 5, 6]]
    assert behind(2, past=6, rows=1, padding=2) == [[2, 3, 5, 6]]


def test_without_its_length_all_is_a_prompt():
    assert behind(None, past=3, rows=1) == [[0, 1, 2, 3]]


def test_layers_with_a_state_get_the_rows_that_are_no_padding():
    facts = {"layer_types": [LINEAR, FULL]}
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    made = masks_of(config(**facts), mask, torch.zeros(1, 3, 4), 2)
    assert made[LINEAR].tolist() == [[1, 1, 1]]
    assert made[FULL].shape == (1, 1, 3, 5)


def test_eager_attention_gets_what_it_adds():
    facts = SimpleNamespace(_attn_implementation="eager")
    made = masks_of(facts, torch.ones(1, 2), torch.zeros(1, 2, 4), 0)
    assert made.dtype == torch.float32
    assert (made == 0).tolist() == [[[[True, False], [True, True]]]]
    assert made.min() == torch.finfo(torch.float32).min


def test_sizes_are_narrow_for_a_while_and_themselves_again():
    facts = config(sliding_window=4096)
    with narrowed(facts, torch.nn.Identity()):
        assert facts.sliding_window < 12
    assert facts.sliding_window == 4096
