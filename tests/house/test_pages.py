"""Pages show only what runs."""

from __future__ import annotations

import re

import pytest

from house.pages import ROOT, blocks, matches, run_page

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
WITH_BLOCKS = [page for page in PAGES if page.exists() and blocks(page)]


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name_of)
def test_what_a_page_shows_runs(page, tmp_path):
    run_page(page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_pages_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    local = [target for target in targets if not target.startswith(("https:", "http:"))]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_a_page_that_shows_something_else_is_caught(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```console run\n$ echo three\nfour\n```\n")
    with pytest.raises(AssertionError, match="three"):
        run_page(page, tmp_path)


def test_a_page_whose_program_fails_is_caught(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python run\nassert 1 == 2\n```\n")
    with pytest.raises(AssertionError, match="exited with 1"):
        run_page(page, tmp_path)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a 3 s", "a 3 s\n", True),
        ("a … s", "a 3.1 s", True),
        ("a … s", "b 3.1 s", False),
        ("a\n…\nz", "a\nb\nc\nz", True),
        ("a\n…\nz", "a\nb\nc", False),
        ("a\nz", "a\nb\nz", False),
    ],
)
def test_an_ellipsis_stands_for_text_and_for_lines(shown, printed, same):
    assert matches(shown, printed) is same


def test_the_index_lists_every_page():
    index = ROOT / "docs" / "README.md"
    linked = re.findall(r"\]\(([^)#]+)\)", index.read_text())
    pages = {str(page.relative_to(index.parent)) for page in index.parent.rglob("*.md")}
    assert {link for link in linked if not link.startswith("..")} == pages - {"README.md"}


def test_decisions_are_numbered_without_gaps():
    numbers = [int(page.name[:4]) for page in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
