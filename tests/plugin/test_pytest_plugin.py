"""``pytest --moe-bundle`` in sessions of their own."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from xml.etree import ElementTree

import pytest

import moe_export
from line import tiny
from moe_export.manifest import FILE_NAME, FileRecord, Manifest
from moe_export.report.junit import checks
from moe_export.runtime import Bundle
from moe_export.validate import validate

NAME = "moe_export.pytest_plugin"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return moe_export.export(
        tiny.build(),
        output=tmp_path_factory.mktemp("plugin") / "tiny.moe",
        example_inputs=tiny.example_inputs(),
    )


@pytest.fixture(scope="module")
def spoiled(bundle, tmp_path_factory) -> Bundle:
    """The same with a weight changed, and every digest rewritten to match."""
    import shutil

    path = tmp_path_factory.mktemp("spoiled") / "spoiled.moe"
    shutil.copytree(bundle.path, path)
    manifest = Manifest.from_json((path / FILE_NAME).read_bytes())
    data = manifest.components["model"].data
    content = bytearray((path / data).read_bytes())
    content[3:320:4] = bytes(byte ^ 0x40 for byte in content[3:320:4])  # exponents
    (path / data).write_bytes(content)
    record = FileRecord(sha256=sha256(content).hexdigest(), bytes=len(content))
    changed = replace(manifest, files={**manifest.files, data: record})
    (path / FILE_NAME).write_text(changed.to_json())
    return Bundle.open(path)


@pytest.fixture
def session(tmp_path):
    """Run pytest with the plugin in an empty folder, in a process of its own."""

    def run(*words, test: str = "") -> subprocess.CompletedProcess[str]:
        if test:
            (tmp_path / "test_it.py").write_text(test)
        command = [sys.executable, "-m", "pytest", "-p", NAME, "-p", "no:cacheprovider"]
        # An editable install imports itself before any plugin is there to rewrite it.
        early = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
        (tmp_path / "pytest.ini").write_text(
            f"[pytest]\naddopts = --strict-markers -W error -W '{early}'\n"
        )
        # From the checkout, as this process has it.
        path = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; import pytest; sys.exit(pytest.main())"
        command[1:3] = ["-c", path]
        return subprocess.run(
            [*command, *map(str, words)], cwd=tmp_path, capture_output=True, text=True
        )

    return run


def test_every_comparison_of_a_bundle_is_a_test_by_its_name(session, bundle, tmp_path):
    result = session("--moe-bundle", bundle.path, "--junit-xml", tmp_path / "x.xml", "-v")
    assert result.returncode == 0, result.stdout + result.stderr
    made = [each for each in checks(validate(bundle)) if each.skipped is None]
    for each in made:
        assert f"::{each.case}::{each.name} PASSED" in result.stdout
    cases = ElementTree.parse(tmp_path / "x.xml").iter("testcase")  # noqa: S314 - just written
    names = [case.get("name") for case in cases]
    assert sorted(names) == sorted(["verdict", *(each.name for each in made)])


def test_what_is_not_compared_any_more_is_skipped_with_its_reason(session, bundle, tmp_path):
    """A case whose tokens fall to other experts on this machine, as rounding may have it."""
    conftest = """
from dataclasses import replace
import moe_export.validate as room

made = room.validate

def validate(bundle):
    report = made(bundle)
    left = tuple(tensor for tensor in report.tensors if tensor.case != "example")
    return replace(report, tensors=left, not_run={"tensors of case 'example'": "explained flips"})

room.validate = validate
"""
    (tmp_path / "conftest.py").write_text(conftest)
    result = session("--moe-bundle", bundle.path, "-rs", "-k", "example and logits")
    assert "1 skipped" in result.stdout
    assert "tensors of case 'example': explained flips" in result.stdout


def test_a_bundle_that_differs_fails_where_it_differs(session, spoiled):
    result = session("--moe-bundle", spoiled.path, "-v")
    assert result.returncode == 1
    failures = {f"{c.case}::{c.name}": c.failure for c in checks(validate(spoiled)) if c.failure}
    assert failures
    for name, words in failures.items():
        assert f"::{name} FAILED" in result.stdout
        assert words in result.stdout
    assert "Traceback" not in result.stdout
    assert "verdict FAILED" in result.stdout


def test_tests_are_chosen_by_name_and_by_marker(session, bundle):
    test = "def test_other(): pass\n"
    chosen = session("--moe-bundle", bundle.path, "-k", "routing and first", "-q", test=test)
    golden = bundle.golden().cases
    assert f"\n{len(golden)} passed" in chosen.stdout
    without = session("--moe-bundle", bundle.path, "-m", "not parity", "-q", test=test)
    assert "\n1 passed" in without.stdout


USER = """
import pytest

def test_with_a_report(moe_bundle, moe_report):
    assert moe_report.source == moe_bundle.manifest.source.description
    assert moe_report.passed

@pytest.mark.parity
def test_marked():
    pass
"""


def test_fixtures_give_the_bundle_and_its_report(session, bundle):
    result = session("--moe-bundle", bundle.path, "test_it.py", "-v", test=USER)
    assert result.returncode == 0, result.stdout
    assert "test_it.py::test_with_a_report PASSED" in result.stdout
    assert "test_it.py::test_marked PASSED" in result.stdout


def test_without_a_bundle_what_needs_one_is_skipped_with_the_reason(session):
    result = session("-rs", test=USER)
    assert "2 skipped" in result.stdout
    assert "needs a bundle: pytest --moe-bundle BUNDLE" in result.stdout


def test_a_bundle_that_is_not_there_is_an_error_of_use(session, tmp_path):
    result = session("--moe-bundle", tmp_path / "nothing")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "there is no bundle here" in result.stderr
    assert "INTERNALERROR" not in result.stdout + result.stderr


def test_a_session_without_a_bundle_loads_nothing_heavy(session):
    test = f"""
import sys

def test_modules():
    assert {NAME!r} in sys.modules
    heavy = {{"numpy", "onnxruntime", "torch", "moe_export.runtime", "moe_export.forms"}}
    assert not heavy & sys.modules.keys()
"""
    result = session("-p", "no:hypothesispytest", test=test)
    assert result.returncode == 0, result.stdout


def test_it_is_an_entry_point_under_its_own_name():
    """So that naming it with ``-p`` where it is installed does not load it twice."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {NAME: NAME}
