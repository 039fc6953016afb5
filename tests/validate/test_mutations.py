"""Every planted fault is caught, and put down to what did it; what does no harm is accepted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import moe_export
import moe_export.rewrite as rewriting
from moe_export.forms import Attribution, Component, Golden, GoldenCase, PortableModel, Report
from moe_export.moe.quantize import Precision
from moe_export.rewrite.recognise import Recognition
from moe_export.runtime.session import Session
from moe_export.validate import runs, validate
from moe_export.validate.tensors import EAGER_FACTOR

from . import patient
from .conftest import Line, exported
from .faults import FAULTS, Fault, all_of, planted, reordered, weight

PAGE = Path(__file__).parents[2] / "docs/validation.md"
EXPERT_CASES = ("every expert", "padded", "empty", "overloaded")


def _targets(fault: Fault) -> tuple[str, ...]:
    """A function stands for an op in one target alone."""
    return ("standard",) if fault.in_function is not None else ("ort", "standard")


PLANTED = [(fault, target) for fault in FAULTS for target in _targets(fault)]


class Outcomes:
    """The report of every fault, each made once."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._reports: dict[tuple[str, str], Report] = {}

    def __call__(self, fault: Fault, target: str) -> Report:
        if (fault.name, target) not in self._reports:
            self._reports[fault.name, target] = self._line.report(fault, target)
        return self._reports[fault.name, target]


@pytest.fixture(scope="module")
def outcomes(line: Line) -> Outcomes:
    return Outcomes(line)


def of_golden_cases(report: Report) -> list[Attribution]:
    return [found for found in report.attribution if found.case not in EXPERT_CASES]


def failing_cases(report: Report) -> set[str]:
    parts = (*report.tensors, *report.routing)
    return {each.case for each in parts if not each.passed}


@pytest.mark.parametrize("target", ["ort", "standard"])
def test_without_a_fault_the_bundle_passes_and_nothing_is_attributed(
    line: Line, target: str
) -> None:
    report = validate(line.bundle(target))
    assert report.passed
    assert report.attribution == ()
    assert not report.not_run


@pytest.mark.parametrize(
    ("fault", "target"), PLANTED, ids=[f"{fault.name}-{target}" for fault, target in PLANTED]
)
def test_a_fault_is_caught_and_put_down_to_what_did_it(
    outcomes: Outcomes, fault: Fault, target: str
) -> None:
    report = outcomes(fault, target)
    assert not report.passed
    found = of_golden_cases(report)
    assert {(each.cause, each.layer) for each in found} == {(fault.cause, fault.layer)}
    assert {each.case for each in report.attribution} == failing_cases(report)


@pytest.fixture(scope="module")
def rounded_line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    portable = exported(patient.build(), patient.example_inputs(), Precision("int8"))
    return Line(portable, tmp_path_factory.mktemp("rounded"))


@pytest.mark.parametrize(
    "fault",
    [fault for fault in FAULTS if fault.in_function is None],
    ids=lambda fault: fault.name,
)
def test_a_fault_is_told_from_rounding_in_a_bundle_that_rounds(
    rounded_line: Line, fault: Fault
) -> None:
    report = rounded_line.report(fault, "ort")
    found = of_golden_cases(report)
    assert {(each.cause, each.layer) for each in found} == {(fault.cause, fault.layer)}


def test_each_attribution_names_the_module_and_where_it_is_written(outcomes: Outcomes) -> None:
    lines = Path(patient.__file__).read_text().splitlines()
    classes = {"first": "Gated", "second": "Shared", "": "Patient"}
    for fault, target in PLANTED:
        for found in outcomes(fault, target).attribution:
            file, _, line = str(found.source).partition(":")
            assert file == "patient.py"
            assert lines[int(line) - 1].startswith(f"class {classes[found.module]}(")


def test_what_is_wrong_before_the_first_layer_is_not_put_on_it(outcomes: Outcomes) -> None:
    for fault in FAULTS:
        if fault.name in ("stale KV cache", "dropped vision tower", "wrong image normalisation"):
            assert {each.module for each in outcomes(fault, "ort").attribution} == {""}


def test_a_shared_expert_is_told_from_the_routed_ones(outcomes: Outcomes) -> None:
    (fault,) = (fault for fault in FAULTS if fault.name == "shared expert added twice")
    for found in outcomes(fault, "ort").attribution:
        assert "its experts are right on synthetic tokens" in found.words


# --- A wrong rewrite ------------------------------------------------------------------------------


@contextmanager
def misread(change: Callable[[Recognition], Recognition]) -> Iterator[None]:
    """Blocks are read otherwise than they were proven: as if the proof had let it pass."""
    own = rewriting.recognise

    def recognise(block, x):
        found = own(block, x)
        return change(found) if isinstance(found, Recognition) else found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewriting, "recognise", recognise)
        yield


def _other_normalisation(found: Recognition) -> Recognition:
    layer = found.proposal.layer
    router = replace(layer.router, normalize=not layer.router.normalize)
    return replace(found, proposal=replace(found.proposal, layer=replace(layer, router=router)))


def _other_activation(found: Recognition) -> Recognition:
    layer = found.proposal.layer
    experts = replace(layer.experts, activation="gelu")
    return replace(found, proposal=replace(found.proposal, layer=replace(layer, experts=experts)))


MISREADINGS = {
    "wrong normalisation in the rewrite": _other_normalisation,
    "wrong activation in the rewrite": _other_activation,
}


@pytest.fixture(scope="module")
def misreadings(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Report]:
    reports = {}
    for name, change in MISREADINGS.items():
        with misread(change):
            portable = exported(patient.build(), patient.example_inputs())
        line = Line(portable, tmp_path_factory.mktemp("misread"))
        reports[name] = validate(line.bundle("ort"))
    return reports


@pytest.mark.parametrize("name", MISREADINGS)
def test_a_wrong_rewrite_is_caught_though_the_target_does_what_it_says(
    misreadings: Mapping[str, Report], name: str
) -> None:
    report = misreadings[name]
    assert not report.passed
    assert {(each.cause, each.layer) for each in report.attribution} == {("rewrite", "first")}
    # The bundle is as near to the wrong reading as ever: only the eager model is not.
    for tensor in report.tensors:
        assert tensor.max_error <= tensor.tolerance
        if tensor.name == "first/y":
            assert not tensor.passed
            assert tensor.rewritten_error is not None
            assert tensor.eager_error > 1000 * tensor.rewritten_error


# --- What does no harm ----------------------------------------------------------------------------

_OTHER_ORDER = (3, 0, 4, 1, 5, 2)


def _summed_in_another_order(component: Component) -> Component:
    """The experts' inner axis reversed in both matrices: the same sum, from its end."""
    inner = range(patient.WIDTH - 1, -1, -1)
    rows = [*inner, *(patient.WIDTH + row for row in inner)]
    return all_of(
        weight("first.up", reordered(rows, axis=1)),
        weight("first.up_bias", reordered(rows, axis=1)),
        weight("first.down", reordered(inner, axis=2)),
    )(component)


def _relabelled(component: Component) -> Component:
    """The experts of a layer under other numbers, in its router and its matrices alike."""
    names = ("first.up", "first.up_bias", "first.down", "first.gate.weight")
    return all_of(*(weight(name, reordered(_OTHER_ORDER)) for name in names))(component)


def _whole(line: Line, plant: Callable[[Component], Component], target: str) -> Report:
    return validate(line.bundle(target, planted(line.portable, plant)))


def _in_bf16(line: Line, target: str) -> Report:
    """Eager rounds its experts to bfloat16 as the bundle does."""
    bundle = moe_export.export(
        patient.build(),
        output=line.folder / f"bf16 {target}",
        example_inputs=patient.example_inputs(),
        target=target,
        precision="bf16",
    )
    return validate(bundle)


def _with_threads(line: Line, target: str) -> Report:
    bundle = line.bundle(target)
    reports = []
    for threads in (1, 2, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "Session", partial(Session, threads=threads))
            reports.append(validate(bundle))
    return next((report for report in reports if not report.passed), reports[0])


def _split(line: Line, target: str) -> Report:
    """Each row of a batch alone, beside what eager made of the batch."""
    golden = line.portable.golden
    rows = tuple(
        _row(case, row)
        for case in golden.cases
        for row in range(len(case.inputs["tokens"]))
        if case.name in ("example", "larger")
    )
    return validate(line.bundle(target), Golden(cases=rows, experts=golden.experts))


def _row(case: GoldenCase, row: int) -> GoldenCase:
    batch = len(case.inputs["tokens"])

    def of_batch(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array[row : row + 1] for name, array in arrays.items()}

    def of_tokens(array: np.ndarray) -> np.ndarray:
        return array.reshape(batch, -1, *array.shape[1:])[row] if array.ndim else array

    layers = {
        name: replace(
            layer,
            **{f.name: of_tokens(getattr(layer, f.name)) for f in dataclasses.fields(layer)},
        )
        for name, layer in case.layers.items()
    }
    return replace(
        case,
        name=f"{case.name}, row {row}",
        inputs=of_batch(case.inputs),
        outputs=of_batch(case.outputs),
        outputs_reference=of_batch(case.outputs_reference),
        layers=layers,
    )


@pytest.fixture(scope="module")
def undecided() -> PortableModel:
    """The patient with three experts of which its first router likes to choose two, nearly a tie.

    What float64 decides, since the proof of the block has to, is within the noise of float32.
    """
    model = patient.build()
    with torch.no_grad():
        gate = model.first.gate.weight
        gate[[1, 2, 4]] = 2 * gate[4]
        gate[2] = torch.nextafter(gate[2], torch.tensor(9.0))
        gate[4] = torch.nextafter(gate[4], torch.tensor(-9.0))
    return exported(model, patient.example_inputs())


def _last_bits(gate: np.ndarray) -> np.ndarray:
    """Another number for the last of the three experts, by four units in the last place."""
    made = gate.copy()
    made[4] += 4 * np.spacing(made[4]) * np.where(np.arange(made.shape[1]) % 2, 1, -1)
    return made


_with_last_bits = weight("first.gate.weight", _last_bits)


def _flipped(line: Line, undecided: PortableModel, target: str) -> Report:
    """The last bits of a router's matrix, where eager's choice hangs on them."""
    return validate(line.bundle(target, planted(undecided, _with_last_bits)))


HARMLESS: dict[str, Callable[[Line, PortableModel, str], Report]] = {
    "another order of summation": lambda line, _, t: _whole(line, _summed_in_another_order, t),
    "relabelled experts and router": lambda line, _, t: _whole(line, _relabelled, t),
    "bf16 where eager is bf16": lambda line, _, t: _in_bf16(line, t),
    "1, 2 and 3 threads": lambda line, _, t: _with_threads(line, t),
    "a batch row by row": lambda line, _, t: _split(line, t),
    "an explained flip": _flipped,
}


@pytest.mark.parametrize("target", ["ort", "standard"])
@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_no_harm_is_accepted(
    line: Line, undecided: PortableModel, name: str, target: str
) -> None:
    report = HARMLESS[name](line, undecided, target)
    assert report.passed
    assert report.attribution == ()


def test_the_relabelled_experts_are_others_indeed(line: Line) -> None:
    """Or nothing was asked of validation."""
    bundle = line.bundle("ort", planted(line.portable, _relabelled))
    case = line.portable.golden.cases[0]
    with Session(bundle, graph="probe") as session:
        made = session.run(case.inputs, outputs=["first/topk_ids"])
    labels = np.argsort(_OTHER_ORDER)
    assert np.array_equal(made["first/topk_ids"], labels[case.layers["first"].topk_ids])


def test_experts_relabelled_without_their_router_are_a_fault(line: Line) -> None:
    names = ("first.up", "first.up_bias", "first.down")
    plant = all_of(*(weight(name, reordered(_OTHER_ORDER)) for name in names))
    report = _whole(line, plant, "ort")
    assert {(e.cause, e.layer) for e in of_golden_cases(report)} == {("lowering", "first")}


# --- Flips and replay -----------------------------------------------------------------------------


def test_a_case_with_explained_flips_is_compared_as_eager_routed(
    line: Line, undecided: PortableModel
) -> None:
    report = _flipped(line, undecided, "ort")
    flips = [flip for parity in report.routing for flip in parity.flips]
    assert flips
    assert all(flip.explained for flip in flips)
    flipped = {parity.case for parity in report.routing if parity.flips}
    of_flipped = [tensor for tensor in report.tensors if tensor.case in flipped]
    assert {tensor.name for tensor in of_flipped} >= {"first/y", "second/x", "second/y", "logits"}
    for tensor in of_flipped:
        assert tensor.replayed_error == tensor.max_error
        assert tensor.max_error <= tensor.tolerance
    assert not report.not_run


def test_behind_a_flip_the_bundle_itself_has_other_numbers(
    line: Line, undecided: PortableModel
) -> None:
    """Or replay would show nothing that a plain run does not."""
    report = _flipped(line, undecided, "ort")
    case = next(parity.case for parity in report.routing if parity.flips)
    golden = next(each for each in undecided.golden.cases if each.name == case)
    tolerance = next(t.tolerance for t in report.tensors if (t.case, t.name) == (case, "first/y"))
    flipped = line.bundle("ort", planted(undecided, _with_last_bits))
    with Session(flipped, graph="probe") as session:
        y = session.run(golden.inputs, outputs=["first/experts_y"])["first/experts_y"]
    assert np.abs(y - golden.layers["first"].y_reference).max() > 1000 * tolerance


@pytest.mark.parametrize("target", ["ort", "standard"])
def test_replay_shows_the_experts_error_beside_that_of_all(line: Line, target: str) -> None:
    report = validate(line.bundle(target), replay=True)
    assert report.passed
    for tensor in report.tensors:
        assert (tensor.replayed_error is None) == (tensor.kind == "expert")


def test_replay_tells_a_wrong_router_from_its_experts(line: Line) -> None:
    """With the eager model's routing forced in, nothing behind the wrong router is wrong."""
    (fault,) = (fault for fault in FAULTS if fault.name == "wrong normalisation of weights")
    bundle = line.bundle("ort", planted(line.portable, fault.plant))
    report = validate(bundle, replay=True)
    assert not report.passed
    assert {parity.layer for parity in report.routing if not parity.passed} == {"first"}
    for tensor in report.tensors:
        if tensor.replayed_error is not None:
            assert tensor.replayed_error <= tensor.tolerance


def test_the_weights_of_every_token_have_earned_their_tolerance(line: Line) -> None:
    report = validate(line.bundle("ort"))
    for parity in report.routing:
        assert parity.weight_error <= parity.weight_tolerance
        # A share of a thousandth, of what float32 keeps a ten-thousandth part of that of.
        assert parity.weight_tolerance < 1e-4
        assert parity.weight_tolerance >= EAGER_FACTOR * 2.0**-24 * 0.2


# --- The page -------------------------------------------------------------------------------------


def _row_of(name: str, planted_in: str, report: Report) -> str:
    found = of_golden_cases(report)
    (cause,), (layer,), (module,) = (
        {getattr(each, field) for each in found} for field in ("cause", "layer", "module")
    )
    caught = "no" if report.passed else "yes"
    where = f"`{module}`" if module else "the model"
    return f"| {name} | {planted_in} | {caught} | `{cause}` | `{layer}` | {where} |"


def confusion(outcomes: Outcomes, misreadings: Mapping[str, Report]) -> list[str]:
    """The rows of the page's table of faults, as they come out."""
    rows = [
        _row_of(
            fault.name,
            "an op's function" if fault.in_function else "graph and weights",
            outcomes(fault, _targets(fault)[0]),
        )
        for fault in FAULTS
    ]
    return rows + [_row_of(name, "the rewrite", report) for name, report in misreadings.items()]


def test_the_page_has_the_table_that_comes_out(
    outcomes: Outcomes, misreadings: Mapping[str, Report]
) -> None:
    rows = confusion(outcomes, misreadings)
    page = PAGE.read_text().splitlines()
    assert [line for line in page if line.count("|") == 7 and "`" in line] == rows, "\n".join(rows)


def test_the_page_names_every_harmless_change() -> None:
    page = PAGE.read_text()
    assert [name for name in HARMLESS if f"| {name} | yes |" not in page] == []
