"""What stands in a page, as text; how it looks is for ``test_browser``."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from moe_export.cli import program
from moe_export.forms import ExpertLoad
from moe_export.report.html import colours, to_html
from moe_export.report.html.axes import LogAxis
from moe_export.report.html.parts import short_names
from moe_export.report.text import verdict
from report.make_fixtures import FIXTURES

HOSTILE = "</title><script>alert(1)</script><img src=//evil onerror=x>\" ' & ${1} {{ 7*7 }}"


class Reader(HTMLParser):
    """Tags, attributes and words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def page(failed) -> str:
    return to_html(failed)


def test_the_same_report_is_the_same_page(failed, page):
    assert to_html(failed) == page


def test_the_verdict_comes_first(failed, page):
    body = page[page.index("<h1") :]
    assert body.index(verdict(failed)) < body.index("<h2")


def test_every_flip_conflict_candidate_and_attribution_is_on_the_page(failed, page):
    words = "\n".join(Reader(page).words)
    for found in failed.attribution:
        assert found.words in words
        assert found.source in words
    for each in failed.generation:
        for candidate in (*each.eager, *each.bundle):
            assert f"{candidate.token} {candidate.text!r}: {candidate.probability:.4f}" in words
    for routing in failed.routing:
        for flip in routing.flips:
            assert f"{routing.layer}, {routing.case}, token {flip.token}: margin" in words
    for each in failed.conflicts:
        if each.tokens > 2:
            assert f"{each.layer}: expert {each.chosen} before {each.runner_up}" in words


def test_every_expert_of_every_layer_has_a_cell_with_its_choices(failed, page):
    for load in failed.loads:
        number = load.layer.split(".")[3]
        for expert, chosen in enumerate(load.choices):
            times = f"{chosen} time{'' if chosen == 1 else 's'}"
            assert f"<title>{number}, expert {expert}: chosen {times}, " in page


def test_what_was_not_recorded_is_said_and_not_drawn(passed):
    bare = replace(passed, loads=(), conflicts=(), logits=(), generation=(), nbytes={}, seconds={})
    page = to_html(bare)
    assert "loads of experts; loads by modality; experts in conflict; next tokens" in page
    assert 'id="loads"' not in page


def test_a_report_of_nothing_is_a_page_that_says_so(passed):
    nothing = replace(passed, tensors=(), routing=(), loads=(), conflicts=(), logits=())
    page = to_html(replace(nothing, generation=(), nbytes={}, seconds={}, rounding=None))
    assert "no tensor could be compared" in page
    assert "<svg" not in page


def test_words_of_a_report_stay_words(failed):
    """A bundle from a stranger names layers, cases and tokens."""
    hostile = replace(
        failed,
        source=HOSTILE,
        not_run={HOSTILE: HOSTILE},
        nbytes={HOSTILE: 1},
        tensors=tuple(replace(t, name=HOSTILE + t.name, case=HOSTILE) for t in failed.tensors),
        routing=tuple(replace(r, layer=HOSTILE + r.layer, case=HOSTILE) for r in failed.routing),
        loads=tuple(
            replace(x, layer=HOSTILE + x.layer, modality=x.modality + HOSTILE) for x in failed.loads
        ),
        conflicts=tuple(replace(c, layer=HOSTILE + c.layer) for c in failed.conflicts),
        attribution=tuple(replace(a, words=HOSTILE, cause=HOSTILE) for a in failed.attribution),
        generation=tuple(
            replace(g, case=HOSTILE, eager=tuple(replace(c, text=HOSTILE) for c in g.eager))
            for g in failed.generation
        ),
    )
    plain, read = Reader(to_html(failed)), Reader(to_html(hostile))
    assert set(read.tags) == set(plain.tags)
    assert not {name for name, _ in read.attributes if name.startswith("on")}
    assert {name for name, _ in read.attributes} == {name for name, _ in plain.attributes}
    assert any("{{ 7*7 }}" in words for words in read.words)


def test_nothing_on_a_page_leads_out_of_it(page):
    read = Reader(page)
    assert not {"script", "link", "img", "iframe", "image", "use", "style"} & (
        set(read.tags) - {"style"}
    )
    assert {value[:1] for name, value in read.attributes if name in ("href", "src")} == {"#"}
    assert "url(" not in page
    assert not re.search(r"https?:", page)


def test_numbers_that_no_axis_has_are_drawn_at_its_ends(passed):
    axis = LogAxis.over([0.0, 1e-6, 1e-3, math.inf, math.nan])
    assert axis.at(0.0) == axis.floor < 1e-6
    assert axis.at(math.inf) == axis.at(math.nan) == axis.ceiling > 1e-3
    broken = replace(passed.tensors[0], max_error=math.inf, tolerance=0.0, passed=False)
    page = to_html(replace(passed, tensors=(broken,)))
    assert "bundle, failed inf" in page


def test_forty_layers_of_a_hundred_experts_are_a_page(passed):
    loads = tuple(
        ExpertLoad(
            layer=f"model.layers.{layer}.mlp",
            modality=modality,
            tokens=128,
            choices=tuple((layer * 31 + expert * 17) % 9 for expert in range(128)),
        )
        for layer in range(48)
        for modality in ("image", "text")
    )
    page = to_html(replace(passed, loads=loads))
    assert page.count("<title>47, expert 127: chosen") == 3  # all tokens, image, text
    assert len(page) < 8_000_000


def test_names_are_short_where_they_are_alike():
    assert short_names(["a.0.mlp", "a.1.mlp", "a.12.mlp"]) == {
        "a.0.mlp": "0",
        "a.1.mlp": "1",
        "a.12.mlp": "12",
    }
    assert short_names(["a.0.mlp"]) == {"a.0.mlp": "a.0.mlp"}
    assert short_names(["", "a"]) == {"": "the model", "a": "a"}
    assert short_names(["a", "a.a"]) == {"a": "a", "a.a": "a.a"}


def test_a_later_pass_over_a_block_has_its_number_in_a_short_name():
    assert short_names(["a.0.mlp", "a.1.mlp", "a.1.mlp@2", "a.1.mlp@13"]) == {
        "a.0.mlp": "0",
        "a.1.mlp": "1",
        "a.1.mlp@2": "1@2",
        "a.1.mlp@13": "1@13",
    }
    assert short_names(["a.mlp", "a.mlp@2"]) == {"a.mlp": "a.mlp", "a.mlp@2": "a.mlp@2"}
    assert short_names(["a.mlp@2"]) == {"a.mlp@2": "a.mlp@2"}


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [colours.LIGHT, colours.DARK], ids=["light", "dark"])
class TestColours:
    def test_more_is_always_more_contrast(self, scheme):
        steps = [contrast(scheme[f"ramp{step}"], scheme["card"]) for step in range(9)]
        assert steps == sorted(steps)
        # Half of what tells a mark from its ground (WCAG's 3) lies between any two steps of three.
        assert all(b / a > 1.2 for a, b in zip(steps[:-2], steps[2:], strict=True))

    def test_both_sides_of_the_middle_stand_out_alike(self, scheme):
        steps = [contrast(scheme[f"lean{step}"], scheme["card"]) for step in range(7)]
        assert steps[:4] == sorted(steps[:4], reverse=True)
        assert steps[3:] == sorted(steps[3:])

    @pytest.mark.parametrize("ground", ["page", "card"])
    def test_words_and_marks_can_be_told_from_their_ground(self, scheme, ground):
        for name in ("ink", "muted", "link", "good", "bad"):
            assert contrast(scheme[name], scheme[ground]) >= 4.5, name
        for name in ("bundle", "beyond", "eager", "rewritten", "replayed"):
            assert contrast(scheme[name], scheme[ground]) >= 3.0, name


def test_the_command_writes_the_page_and_says_the_verdict(failed, page, tmp_path):
    output = tmp_path / "a.html"
    words = ["report", str(FIXTURES / "failed.json"), "-o", str(output)]
    result = CliRunner().invoke(program, words)
    assert (result.exit_code, result.stderr) == (0, "")
    assert output.read_text() == page
    assert result.stdout.startswith("failed: the bundle does not reproduce")


@pytest.mark.parametrize("package", ["vl_convert", "jinja2"])
def test_a_missing_package_is_named_with_what_installs_it(package, tmp_path):
    code = f"import sys; sys.modules[{package!r}] = None; from moe_export.cli import main; main()"
    words = ["report", str(FIXTURES / "passed.json"), "-o", str(tmp_path / "x.html")]
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert result.returncode == 5
    assert package in result.stderr
    assert "hint: pip install 'moe-export[report]'" in result.stderr
    assert not list(tmp_path.iterdir())
