"""A plugin of pytest: ``pytest --moe-bundle BUNDLE`` shows every comparison of a bundle as a test.

Without the option it adds the fixtures ``moe_bundle`` and ``moe_report`` and the marker ``parity``,
and nothing else: whatever is heavy is imported when a bundle is looked at.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from moe_export.forms import Report
    from moe_export.report.junit import Check
    from moe_export.runtime.bundle import Bundle

_OPTION = "--moe-bundle"
_WITHOUT = f"needs a bundle: pytest {_OPTION} BUNDLE"
_STORED = "reports/parity.json"
_BUNDLE = pytest.StashKey["Bundle"]()
_REPORT = pytest.StashKey["Report"]()


class DiffersError(Exception):
    """A comparison that failed; its words are all that there is to show."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--moe-bundle``."""
    group = parser.getgroup("moe-export", "parity of a bundle with its eager model")
    group.addoption(
        _OPTION,
        metavar="BUNDLE",
        help="validate this bundle, each comparison as a test: every output and MoE layer of every "
        "golden case, its routing, every expert",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker ``parity``."""
    config.addinivalue_line(
        "markers", f"parity: a comparison of a bundle, or a test that {_WITHOUT}"
    )


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Beside the files and folders that a session looks into, the bundle."""
    report = yield
    path = collector.config.getoption(_OPTION)
    if path is not None and isinstance(collector, pytest.Session) and report.passed:
        _bundle(collector.config)  # one that is not there is an error of use, not of a test
        report.result.append(Comparisons.from_parent(collector, name=path, nodeid=path))
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs a bundle where none is given."""
    if config.getoption(_OPTION) is not None:
        return
    for item in items:
        if item.get_closest_marker("parity") is not None:
            item.add_marker(pytest.mark.skip(reason=_WITHOUT))


@pytest.fixture(scope="session")
def moe_bundle(pytestconfig: pytest.Config) -> Bundle:
    """The bundle of ``--moe-bundle``, every file checked; without it the test is skipped."""
    if pytestconfig.getoption(_OPTION) is None:
        pytest.skip(_WITHOUT)
    return _bundle(pytestconfig)


@pytest.fixture(scope="session")
def moe_report(pytestconfig: pytest.Config, moe_bundle: Bundle) -> Report:
    """What validating the bundle found, once in a session, whether it passed or not."""
    return _report(pytestconfig)


class Comparisons(pytest.Collector):
    """The comparisons of one bundle, by the names that its own report gives them."""

    def collect(self) -> Iterator[Comparison]:
        for case, name in _names(_bundle(self.config)):
            item: Comparison = Comparison.from_parent(self, name=f"{case}::{name}")
            item.case, item.what = case, name
            item.add_marker(pytest.mark.parity)
            yield item
        whole: Comparison = Comparison.from_parent(self, name="verdict")
        whole.add_marker(pytest.mark.parity)
        yield whole


class Comparison(pytest.Item):
    """One comparison; without a case, the verdict over all of them."""

    case: str | None = None
    what: str | None = None

    def runtest(self) -> None:
        report = _report(self.config)
        if self.case is None:
            self._require(report)
            return
        from moe_export.report.junit import checks

        found = [
            each for each in checks(report) if (each.case, each.name) == (self.case, self.what)
        ]
        if not found:
            pytest.skip(_why_not(report, self.case))
        for each in found:
            self._show(each)

    def _require(self, report: Report) -> None:
        from moe_export.report.text import failure

        for each in report.generation:
            self.add_report_section(
                "call", f"generation of {each.case}", f"{each.agreed} of {each.steps} tokens alike"
            )
        if not report.passed:
            from moe_export.report.junit import attribution_words

            raise DiffersError(
                "\n".join([failure(report), *map(attribution_words, report.attribution)])
            )

    def _show(self, check: Check) -> None:
        if check.details:
            self.add_report_section("call", "parity", "\n".join(check.details))
        if check.failure is not None:
            raise DiffersError("\n".join([check.failure, *check.details]))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The words alone: a traceback through the plugin says nothing of the bundle."""
        if isinstance(excinfo.value, DiffersError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, None, str]:
        # What ends like the node's own name would be shown with every dot as two colons.
        bundle = str(self.config.getoption(_OPTION))
        return bundle, None, f"{self.name} of {bundle}"


def _bundle(config: pytest.Config) -> Bundle:
    from moe_export.errors import MoeExportError
    from moe_export.runtime.bundle import Bundle

    if _BUNDLE not in config.stash:
        try:
            config.stash[_BUNDLE] = Bundle.open(config.getoption(_OPTION))
        except MoeExportError as error:
            raise pytest.UsageError(f"{_OPTION}: {error}") from error
    return config.stash[_BUNDLE]


def _report(config: pytest.Config) -> Report:
    if _REPORT not in config.stash:
        from moe_export.validate import validate

        config.stash[_REPORT] = validate(_bundle(config))
    return config.stash[_REPORT]


def _names(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """Case and name of each comparison that was made when the bundle was.

    What this machine compares besides, engines for example, is in the verdict alone.
    """
    from moe_export.report.junit import checks
    from moe_export.report.parity import from_json

    if _STORED not in bundle.manifest.files:
        return
    path = bundle.path / _STORED
    for check in checks(from_json(path.read_bytes(), str(path))):
        if check.skipped is None:
            yield check.case, check.name


def _why_not(report: Report, case: str) -> str:
    return next(
        (f"{what}: {why}" for what, why in report.not_run.items() if repr(case) in what),
        "this comparison was not made",
    )
