"""The page: what a report says, in the order in which a reader asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from moe_export.forms import Attribution, Report
from moe_export.report.figures import printable
from moe_export.report.html import colours
from moe_export.report.html.answers import answers
from moe_export.report.html.costs import costs
from moe_export.report.html.draw import draw, missing
from moe_export.report.html.errors import errors
from moe_export.report.html.loads import loads, modalities
from moe_export.report.html.parts import Facts, Section, layer_words
from moe_export.report.html.routing import conflicts, routing
from moe_export.report.text import summary, verdict

_HERE = Path(__file__).parent

# Each with what a page without it says is not in the report.
_SECTIONS: tuple[tuple[str, Callable[[Report], Section | None]], ...] = (
    ("errors of tensors", errors),
    ("routing", routing),
    ("loads of experts", loads),
    ("loads by modality", modalities),
    ("experts in conflict", conflicts),
    ("next tokens", answers),
    ("sizes, times and rounding", costs),
)

_CAUSES = {
    "rewrite": "the rewrite: the MoE block as ops, still in PyTorch",
    "lowering": "the lowering: the graph in the target's ops",
    "kernel": "a kernel: the same graph gives other numbers there",
    "router": "the router: other experts were chosen",
    "input": "the input: what reached it was beyond already",
    "unknown": "unknown",
}


def to_html(report: Report) -> str:
    """One HTML file, without script and with nothing to fetch.

    Words of the report are escaped, and drawings hold shapes and words alone.  The same report
    gives the same bytes with the same packages.  Raises ``MissingEnvironmentError`` without the
    packages of the extra ``report``.
    """
    try:
        import jinja2
    except ImportError as error:
        raise missing(error) from error
    made = [(what, make(report)) for what, make in _SECTIONS]
    sections = [attribution(report), *(section for _, section in made)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        # What is marked safe, a type of its own, is what this package wrote.
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["draw"] = draw
    page: str = environment.get_template("page.html.jinja").render(
        report=report,
        verdict=verdict(report),
        summary=summary(report),
        sections=[section for section in sections if section is not None],
        absent=[what for what, section in made if section is None],
        style=(_HERE / "page.css").read_text(),
        light=colours.properties(colours.LIGHT),
        dark=colours.properties(colours.DARK),
    )
    return page


def attribution(report: Report) -> Section | None:
    """For each case that left its envelope, where, and what did it."""
    if not report.attribution:
        return None
    return Section(
        anchor="attribution",
        title="Where it went wrong",
        says="The first place of each case that is beyond its envelope, and which stage on the "
        "line from the eager model to the bundle explains it.",
        facts=tuple(_found(each) for each in report.attribution),
    )


def _found(each: Attribution) -> Facts:
    return Facts(
        title=f"{layer_words(each.layer)}, {each.case}",
        facts=(
            ("cause", _CAUSES.get(each.cause, each.cause)),
            ("what was compared", each.words),
            ("component", each.component),
            ("module", layer_words(each.module)),
            ("source", each.source or "unknown"),
        ),
    )
