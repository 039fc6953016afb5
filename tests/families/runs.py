"""A decoder's runs on random rows: in one or in two, and behind padding."""

from __future__ import annotations

import torch

LENGTH = 21


def embeds():
    return torch.randn(1, LENGTH, 64, generator=torch.Generator().manual_seed(2))


def run(decoder, rows, mask, past):
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -rows.shape[1] :]
    own = {"inputs_embeds": rows, "position_ids": positions, "attention_mask": mask}
    made = decoder.run({**own, **past})
    names = zip(decoder.cache_names("past"), decoder.cache_names("present"), strict=True)
    return made["logits"], {name: made[present] for name, present in names}


def require_two_runs_are_one(decoder):
    rows, mask = embeds(), torch.ones(1, LENGTH, dtype=torch.int64)
    expected, _ = run(decoder, rows, mask, decoder.empty_cache(rows))
    for cut in (1, 2, 9, LENGTH - 1):
        first, past = run(decoder, rows[:, :cut], mask[:, :cut], decoder.empty_cache(rows))
        second, _ = run(decoder, rows[:, cut:], mask, past)
        made = torch.cat([first, second], dim=1)
        assert (made - expected).abs().max() <= 1e-4 * expected.abs().max(), cut


def require_padding_changes_nothing(decoder):
    rows = embeds().expand(2, -1, -1)
    whole = torch.ones(2, LENGTH, dtype=torch.int64)
    expected, _ = run(decoder, rows, whole, decoder.empty_cache(rows))
    for padding in (1, 3, 6):
        longer = torch.cat([torch.ones(2, padding, 64), rows], dim=1)
        mask = torch.cat([torch.zeros(2, padding), torch.ones(2, LENGTH)], dim=1).long()
        made, _ = run(decoder, longer, mask, decoder.empty_cache(longer))
        off = (made[:, padding:] - expected).abs().max()
        assert off <= 1e-4 * expected.abs().max(), padding
