"""The page in a real Chromium: on a phone and on a desk, light and dark, by keyboard and on paper.

``make unit`` installs the browser where it can.  ``MOE_EXPORT_SCREENSHOTS=FOLDER`` keeps what it
showed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from moe_export.report.html import to_html

CHROMIUM = shutil.which("chromium")
SCREENSHOTS = os.environ.get("MOE_EXPORT_SCREENSHOTS")
PHONE, DESK = 360, 1280

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium: tools/browser.sh installs Debian's"
)

# WCAG 2.2, A and AA, and what is good practice: landmarks, the order of headings.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # --no-sandbox: tests run as root in containers.
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@dataclass
class Opened:
    """A page, what it said to the console and what it asked the network for."""

    page: Any
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def pages(passed, failed, tmp_path_factory) -> dict[str, Path]:
    """The pages of both reports as files."""
    folder = tmp_path_factory.mktemp("pages")
    made = {"passed": folder / "passed.html", "failed": folder / "failed.html"}
    for name, report in (("passed", passed), ("failed", failed)):
        made[name].write_text(to_html(report))
    return made


@pytest.fixture
def show(browser, pages):
    """Open the page of a report in a window of that width and scheme."""
    contexts = []

    def opened(name: str, *, width: int = DESK, scheme: str = "light") -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        made = Opened(context.new_page())
        made.page.on("console", lambda message: made.console.append(message.text))
        made.page.on("pageerror", lambda error: made.console.append(str(error)))
        made.page.on("request", lambda asked: made.requests.append(asked.url))
        made.page.goto(pages[name].as_uri())
        if SCREENSHOTS is not None:
            shot = Path(SCREENSHOTS) / f"{name}-{width}-{scheme}.png"
            made.page.screenshot(path=shot, full_page=True)
        return made

    yield opened
    for context in contexts:
        context.close()


sizes = pytest.mark.parametrize("width", [PHONE, DESK])
schemes = pytest.mark.parametrize("scheme", ["light", "dark"])
reports = pytest.mark.parametrize("name", ["passed", "failed"])


@reports
@sizes
@schemes
def test_a_page_fits_its_window_and_asks_for_nothing(show, name, width, scheme):
    opened = show(name, width=width, scheme=scheme)
    assert opened.console == []
    assert [url.partition(":")[0] for url in opened.requests] == ["file"]
    wide = opened.page.evaluate("document.documentElement.scrollWidth")
    assert wide == width, "the page scrolls sideways"
    outside = opened.page.evaluate(
        """[...document.querySelectorAll("figure svg text")].filter(text => {
            const box = text.getBoundingClientRect();
            return box.left < 0 || box.right > window.innerWidth;
        }).map(text => text.textContent)"""
    )
    assert outside == [], "letters of a chart are cut off"


@sizes
def test_letters_of_charts_can_be_read_and_do_not_lie_on_each_other(show, width):
    page = show("failed", width=width).page
    smallest = page.evaluate(
        """Math.min(...[...document.querySelectorAll("figure svg")].flatMap(svg => {
            const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
            return [...svg.querySelectorAll("text")].map(
                text => scale * parseFloat(getComputedStyle(text).fontSize));
        }))"""
    )
    assert smallest >= 9.0
    overlapping = page.evaluate(
        """[...document.querySelectorAll("figure svg")].flatMap(svg => {
            const texts = [...svg.querySelectorAll("text")].filter(t => t.textContent);
            const boxes = texts.map(text => text.getBoundingClientRect());
            // Boxes hold the line's whole height: letters touch where the middles of lines do.
            const met = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 &&
                Math.abs(a.top + a.bottom - b.top - b.bottom) < Math.min(a.height, b.height);
            return boxes.flatMap((box, i) => boxes.slice(i + 1).flatMap((other, j) =>
                met(box, other) && box.height < 40 && other.height < 40
                    ? [texts[i].textContent + " | " + texts[i + 1 + j].textContent] : []));
        })"""
    )
    assert overlapping == []


@reports
@sizes
@schemes
def test_no_rule_of_accessibility_is_broken(show, name, width, scheme):
    """Contrast, landmarks, order of headings, names, tables: axe-core's rules, all numbers open."""
    from axe_playwright_python.sync_playwright import Axe

    page = show(name, width=width, scheme=scheme).page
    # axe is put into the page as a script, which the page itself forbids.
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    results = Axe().run(page, options={"runOnly": RULES}).response
    assert [
        f"{rule['id']}: {node['html'][:200]}"
        for rule in results["violations"]
        for node in rule["nodes"]
    ] == []
    checked = {rule["id"] for rule in results["passes"]}
    assert {"color-contrast", "heading-order", "landmark-one-main", "region"} <= checked


def test_a_reader_hears_the_verdict_then_the_contents_then_each_section(show):
    page = show("failed").page
    tree = page.locator("body").aria_snapshot()
    parts = [
        "Skip to",
        "- banner:",
        "Failed: the bundle does not reproduce",
        "- navigation",
        "- main:",
    ]
    parts += ['heading "Where it went wrong"', 'heading "Errors and their envelopes"']
    places = [tree.index(words) for words in parts]
    assert places == sorted(places)
    assert "img" not in tree, "charts are silent: their tables speak"
    headings = page.locator("h2").all_inner_texts()
    links = page.locator("nav a").all_inner_texts()
    assert headings[: len(links)] == links


def test_the_keyboard_goes_through_the_page_in_its_order_and_is_seen(show):
    page = show("failed").page
    page.evaluate(
        """window.stops = [...document.querySelectorAll("a, summary, [tabindex='0']")]
            .filter(each => each.checkVisibility());"""
    )
    stops = page.evaluate("stops.length")
    assert stops > 20
    for place in range(stops):
        page.keyboard.press("Tab")
        at, line, text = page.evaluate(
            """(() => { const at = document.activeElement;
            return [stops.indexOf(at), getComputedStyle(at).outlineStyle, at.textContent]; })()"""
        )
        assert (at, line) == (place, "solid"), text
    lines = page.evaluate("stops.map(each => each.closest('section')?.offsetTop ?? 0)")
    assert lines == sorted(lines), "what is reached later stands higher"


def test_a_table_opens_by_keyboard_and_the_skip_link_skips(show):
    page = show("failed").page
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    first = page.locator("summary").first
    first.focus()
    page.keyboard.press("Enter")
    assert first.evaluate("each => each.parentElement.open")


def test_paper_is_white_and_holds_the_numbers(show):
    page = show("failed", scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    assert page.evaluate(
        """[...document.querySelectorAll("details table")].every(
            table => table.getBoundingClientRect().height > 0)"""
    ), "a table is folded away on paper"
    assert page.evaluate(
        """[...document.querySelectorAll(".scroll")].every(
            each => each.scrollWidth <= each.clientWidth)"""
    ), "a table is wider than its place on paper"
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")


@schemes
def test_marks_are_drawn_in_the_colours_of_the_scheme(show, scheme):
    """A variable that is not there would paint black."""
    page = show("failed", scheme=scheme).page
    painted = page.evaluate(
        """[...document.querySelectorAll("figure svg [fill^='var']")].map(
            mark => [mark.getAttribute("fill"), getComputedStyle(mark).fill])"""
    )
    by_name = dict(painted)
    assert len(by_name) > 9
    assert len(set(by_name.values())) == len(by_name)
