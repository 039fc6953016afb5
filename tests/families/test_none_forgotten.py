"""Every family of the installed Transformers that can have experts is tried, or says why not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("transformers")

import transformers
from huggingface_hub.errors import StrictDataclassError

from moe_export.moe.families import ENCLOSING, FAMILIES

from .catalogue import CASES, REMARKS, STOPPED
from .untried import NOT_TRIED, NOT_TRIED_TEXT, OTHER_TASKS

LISTS = (NOT_TRIED, NOT_TRIED_TEXT, OTHER_TASKS)

# Default configurations say of themselves what they imply otherwise.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def configurations() -> dict[str, Any]:
    """The configuration of each family that Transformers builds for some task, by its name."""
    loaders = (
        getattr(transformers, name) for name in dir(transformers) if name.startswith("AutoModelFor")
    )
    kinds = {kind for loader in loaders for kind in getattr(loader, "_model_mapping", {})}
    return {kind.model_type: kind for kind in kinds}


def fields(kind: Any) -> Iterator[str]:
    """What a configuration says, with those within it; by default where these are of any kind."""
    yield from kind.__dataclass_fields__
    yield from kind.attribute_map
    for inner in kind.sub_configs.values():
        if inner is not transformers.AutoConfig:
            yield from fields(inner)
    if transformers.AutoConfig in kind.sub_configs.values():
        for inner in vars(kind()).values():
            if isinstance(inner, transformers.PreTrainedConfig):
                yield from fields(type(inner))


def has_experts(kind: Any) -> bool:
    """Whether a configuration names any; one whose defaults contradict each other may."""
    try:
        return any("expert" in name for name in fields(kind))
    except StrictDataclassError:
        return True


@pytest.fixture(scope="module")
def known():
    return {case.family for case in CASES}.union(*LISTS)


@pytest.fixture(scope="module")
def families():
    return configurations()


def test_what_can_have_experts_is_tried_or_listed(families, known):
    forgotten = {name for name, kind in families.items() if has_experts(kind)} - known
    assert not forgotten


def test_a_configuration_shows_its_experts_wherever_they_are(families):
    # Of its own, of a language model within, of one of any kind, and under a name of its own.
    for family in ("qwen3_moe", "qwen3_vl_moe", "kimi_k25", "qwen3_omni_moe", "dbrx"):
        assert has_experts(families[family])
    for family in ("llama", "llava", "whisper"):
        assert not has_experts(families[family])


def test_what_is_listed_is_a_family_of_transformers(families, known):
    assert not known - set(families)


def test_a_family_is_in_one_list_and_not_among_the_tried():
    listed = [name for names in LISTS for name in names]
    assert len(listed) == len(set(listed))
    assert not set(listed) & {case.family for case in CASES}
    assert not set(listed) & {*FAMILIES, *ENCLOSING}


def test_what_is_remarked_or_stopped_was_tried():
    assert {*REMARKS, *STOPPED} <= {case.family for case in CASES}
