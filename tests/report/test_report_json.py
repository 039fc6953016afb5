"""What is written can be read again, says what its schema says, and is refused when it lies."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import jsonschema
import pytest

from moe_export.errors import UnsafeInputError
from moe_export.report import files
from moe_export.report.parity import from_json, to_json
from report import parity_schema


@pytest.fixture(params=["passed", "failed"])
def report(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def validator():
    published = json.loads(parity_schema.PAGE.read_text())
    kind = jsonschema.Draft202012Validator
    kind.check_schema(published)
    return kind(published)


def changed(report, **fields):
    return json.dumps({**json.loads(to_json(report)), **fields}).encode()


def test_the_published_schema_is_that_of_the_dataclasses():
    assert parity_schema.PAGE.read_text() == parity_schema.text(), (
        "run `python -m report.parity_schema` in tests"
    )


def test_what_is_read_is_what_was_written(report):
    assert from_json(to_json(report).encode(), "x.json") == report


def test_what_is_written_is_as_the_schema_says(report, validator):
    validator.validate(json.loads(to_json(report)))


def test_numbers_without_a_word_in_json_come_back(passed, validator):
    first, *others = passed.tensors
    broken = replace(first, max_error=math.inf, relative_error=-math.inf, cosine=math.nan)
    report = replace(passed, tensors=(replace(broken, passed=False), *others))
    text = to_json(report)
    validator.validate(json.loads(text))
    again = from_json(text.encode(), "x.json")
    assert math.isnan(again.tensors[0].cosine)
    assert to_json(again) == text


@pytest.mark.parametrize(
    "fields",
    [{"schema_version": 3}, {"against": 1}, {"more": 0}, {"tensors": [{"case": "c"}]}],
    ids=str,
)
def test_the_schema_refuses_what_the_reader_refuses(passed, validator, fields):
    content = changed(passed, **fields)
    assert not validator.is_valid(json.loads(content))
    with pytest.raises(UnsafeInputError, match=r"x\.json"):
        from_json(content, "x.json")


def test_a_report_of_the_first_version_is_read(passed):
    content = json.loads(to_json(passed))
    later = ["loads", "conflicts", "logits", "generation", "attribution", "nbytes", "seconds"]
    for name in later:
        del content[name]
    content["schema_version"] = 1
    read = from_json(json.dumps(content).encode(), "x.json")
    assert read.tensors == passed.tensors
    assert not any(getattr(read, name) for name in later)


def test_a_verdict_that_its_numbers_do_not_bear_out_is_refused(failed):
    with pytest.raises(UnsafeInputError, match="not that of its numbers"):
        from_json(changed(failed, passed=True), "x.json")


def test_what_a_bundle_holds_does_not_depend_on_how_fast_it_was_validated(passed):
    slower = replace(passed, seconds={"golden tensors": 99.0})
    assert files(slower) == files(passed)
    assert to_json(slower) != to_json(passed)
