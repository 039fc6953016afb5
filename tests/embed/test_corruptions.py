"""Damaged bundles and lying manifests: never loaded silently, never the end of the program."""

from __future__ import annotations

from embed.driver import Driver
from moe_export.runtime import Bundle
from tools.fuzz.bundles import search


def test_no_damage_is_loaded_and_every_lie_is_judged_as_python_judges_it(bigram: Bundle):
    with Driver() as driver:
        happened, wrong = search(bigram.path, 300, 0, driver)
    assert not wrong
    assert sum(happened.values()) == 300
    assert {name.partition(":")[0] for name in happened} >= {"flipped_bits", "manifest_values"}


def test_a_bundle_of_several_graphs_is_held_to_the_same(seeing: Bundle):
    with Driver() as driver:
        _, wrong = search(seeing.path, 60, 1, driver)
    assert not wrong
