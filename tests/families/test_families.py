"""Every family comes as far as docs/models.md says; the whole line is run for a few of them.

``MOE_EXPORT_FAMILIES=all`` runs it for all.
"""

from __future__ import annotations

import os

import pytest

pytest.importorskip("transformers")

from moe_export.errors import MoeExportError
from moe_export.load import load
from moe_export.rewrite import rewrite
from moe_export.spec import export_spec

from .catalogue import CASES, STOPPED, Case
from .stages import STAGES, progress, require_recognised

# One with packed images, three positions a token and groups of experts; one with attention sinks,
# a window and experts with biases; one whose router is none of the op's.
REPRESENTATIVE = ("glm4v_moe", "gpt_oss", "phimoe")

# A configuration that says one thing and implies another is Transformers' own affair.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

WHOLE = [
    case
    for case in CASES
    if case.family not in STOPPED
    and (case.family in REPRESENTATIVE or os.environ.get("MOE_EXPORT_FAMILIES") == "all")
]


def _name(case: Case) -> str:
    return case.family


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_parts_are_the_model_and_every_block_of_experts_is_proven(case, tmp_path):
    case.save(tmp_path)

    def line():
        require_recognised(rewrite(load(export_spec(tmp_path))))

    stopped = STOPPED.get(case.family)
    if stopped is None or stopped.stage not in ("proven", "recognised"):
        line()
        return
    with pytest.raises(MoeExportError, match=stopped.words):
        line()


@pytest.mark.parametrize("case", WHOLE, ids=_name)
def test_a_bundle_says_what_transformers_generate_says(case, tmp_path):
    made = progress(case, tmp_path)
    assert made.passed == STAGES, made.reason
