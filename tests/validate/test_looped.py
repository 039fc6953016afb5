"""A block that runs several times in one run is an MoE layer in each pass over it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from moe_export import Bundle
from moe_export.bench.work import work_of
from moe_export.capture import Rounding, capture_live
from moe_export.errors import CaptureError, UnsafeInputError
from moe_export.forms import OWN_NUMBERS, Golden, PortableModel, Report, block_name
from moe_export.load import load
from moe_export.moe.quantize import Precision
from moe_export.rewrite import rewrite
from moe_export.spec import export_spec
from moe_export.validate import validate
from rewrite.odd_routers import HIDDEN, Tempered, lively, rows

from .conftest import Line, exported
from .faults import Fault, behind, node_attribute
from .patient import WIDTH, Gated

LAYERS = ("layers.0.moe", "layers.1.moe", "layers.0.moe@2", "layers.1.moe@2")
EPS = float(np.finfo(np.float32).eps)

WRONG_ROUTER = Fault(
    "another normalisation in a later pass",
    "router",
    "layers.0.moe@2",
    node_attribute("layers.0.moe@2/Router", ir.AttrInt64("normalize", 0)),
)
WRONG_EXPERTS = Fault(
    "more of the experts in a later pass",
    "unknown",  # they are two operators then
    "layers.1.moe@2",
    behind("layers.1.moe@2/experts_y", "Mul", np.array(1.5, np.float32)),
)


class Layer(nn.Module):
    """A block of experts on rows of one size, beside which they go on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.moe = Gated()
        nn.init.normal_(self.moe.gate.weight)  # lively routing

    def forward(self, x: Tensor) -> Tensor:
        return x + self.moe(self.norm(x))


class Looped(nn.Module):
    """Two layers that run one after the other, so many times."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        self.passes = passes
        self.layers = nn.ModuleList(Layer() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.passes):
            for layer in self.layers:
                x = layer(x)
        return x


class LoopedAlone(nn.Module):
    """One block in no list, whose router no op says, run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.moe = nn.LayerNorm(HIDDEN), lively(Tempered)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = x + self.moe(self.norm(x))
        return x


class Uneven(Looped):
    """As often as it is told, but for inputs of one row."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 1:
            x = super().forward(x)
        return super().forward(x)


def looped(passes: int = 2) -> Looped:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        return Looped(passes).eval()


def example() -> Tensor:
    return torch.randn(3, 7, WIDTH, generator=torch.Generator().manual_seed(9))


def portable_of(passes: int, precision: Precision = OWN_NUMBERS) -> PortableModel:
    return exported(looped(passes), (example(),), precision)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    return Line(portable_of(2), tmp_path_factory.mktemp("looped"))


@pytest.fixture(scope="module")
def bundle(line: Line) -> Bundle:
    return line.bundle("ort")


def routed_layers(report: Report) -> list[str]:
    return list(dict.fromkeys(each.layer for each in report.routing))


@pytest.mark.parametrize("target", ["ort", "standard"])
def test_each_pass_is_compared_under_a_name_of_its_own(line: Line, target: str) -> None:
    made = line.bundle(target)
    assert made.component("model").layers == LAYERS
    report = validate(made, replay=True)
    assert report.passed
    assert tuple(routed_layers(report)) == LAYERS
    names = {tensor.name for tensor in report.tensors}
    assert names >= {f"{layer}/{role}" for layer in LAYERS for role in ("x", "y", "experts")}
    assert tuple(load.layer for load in report.loads) == LAYERS
    # Each pass serves two experts for each token.
    assert all(sum(load.choices) == 2 * load.tokens > 0 for load in report.loads)


def test_each_pass_chooses_by_its_own_numbers(line: Line) -> None:
    for case in line.portable.golden.cases:
        for block in LAYERS[:2]:
            first, second = case.layers[block], case.layers[f"{block}@2"]
            assert not np.allclose(first.x, second.x)
            assert len(first.topk_ids) < 4 or (first.topk_ids != second.topk_ids).any()


def require_near(golden: Golden, layers: tuple[str, ...]) -> None:
    """What eager saw in each pass is its reference but for rounding, so both went one way."""
    for case in golden.cases:
        assert tuple(case.layers) == layers
        for recorded in case.layers.values():
            for one, other in (
                (recorded.x, recorded.x_reference),
                (recorded.y, recorded.y_reference),
            ):
                # Sums of some 100 terms through four layers, each with a norm.
                assert np.abs(one - other).max() <= 400 * EPS * np.abs(other).max()
            assert np.allclose(recorded.topk_weights, recorded.topk_weights_reference, atol=1e-5)


def test_the_reference_is_routed_in_each_pass_as_eager_was(line: Line) -> None:
    require_near(line.portable.golden, LAYERS)


def test_the_rewritten_model_is_as_near_in_each_pass(line: Line) -> None:
    for case in line.portable.golden.cases:
        for recorded in case.layers.values():
            assert recorded.y_rewritten_error <= 400 * EPS * np.abs(recorded.y_reference).max()


def test_weights_are_stored_once_however_many_passes_read_them(bundle: Bundle, line: Line) -> None:
    once = Line(portable_of(1), line.folder).bundle("ort")
    data = [made.path / made.component("model").data for made in (once, bundle)]
    assert data[0].read_bytes() == data[1].read_bytes()
    assert set(line.portable.golden.experts) == set(LAYERS[:2])


def test_a_bundle_does_twice_the_work_of_one_pass(bundle: Bundle, line: Line) -> None:
    once = Line(portable_of(1), line.folder).bundle("ort")
    inputs = {"x": example().numpy()}
    assert work_of(bundle, inputs).operations == 2 * work_of(once, inputs).operations


def test_a_router_that_is_wrong_in_a_later_pass_is_found_there(line: Line) -> None:
    report = line.report(WRONG_ROUTER, "ort")
    assert not report.passed
    first, *_ = (each for each in report.routing if not each.passed)
    assert first.layer == WRONG_ROUTER.layer
    for found in report.attribution:
        assert (found.cause, found.layer) == (WRONG_ROUTER.cause, WRONG_ROUTER.layer)
        assert found.module == "layers.0.moe"
        assert str(found.source).startswith("patient.py:")


def test_experts_are_checked_alone_in_each_pass(line: Line) -> None:
    report = line.report(WRONG_EXPERTS, "ort")
    alone = {each.name: each.passed for each in report.tensors if each.case == "every expert"}
    assert alone == {f"{layer}/experts": layer != WRONG_EXPERTS.layer for layer in LAYERS}
    found = {(each.cause, each.layer, each.module) for each in report.attribution}
    assert found == {(WRONG_EXPERTS.cause, WRONG_EXPERTS.layer, "layers.1.moe")}


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_rounded_bundle_passes_and_says_what_rounding_costs_in_each_pass(
    precision: str, tmp_path: Path
) -> None:
    model = portable_of(2, Precision(precision))
    assert model.rounding is not None
    assert tuple(model.rounding.routing) == LAYERS
    assert validate(Line(model, tmp_path).bundle("ort")).passed


def test_golden_tensors_recorded_live_know_each_pass(bundle: Bundle) -> None:
    marked = rewrite(load(export_spec(looped(), example_inputs=(example(),))))
    golden = capture_live(marked, {"model": Rounding()})
    require_near(golden, LAYERS)
    assert validate(bundle, golden, against="live").passed


def test_a_model_that_runs_a_block_more_or_less_often_than_the_bundle_is_told_so(
    bundle: Bundle,
) -> None:
    for passes, said in ((1, "do not know 'layers.0.moe@2'"), (3, "know 'layers.0.moe@3'")):
        golden = portable_of(passes).golden
        with pytest.raises(UnsafeInputError, match=said):
            validate(bundle, golden, against="live")


def test_a_block_that_runs_more_often_for_some_sizes_is_refused() -> None:
    with pytest.raises(CaptureError, match="another number of times") as refused:
        exported(Uneven(1).eval(), (example(),))
    assert refused.value.where == "layers.0.moe@2"


def test_margins_of_a_router_that_is_kept_are_those_of_the_pass(tmp_path: Path) -> None:
    model = exported(LoopedAlone().eval(), (rows(2, 9),))
    assert model.blocks[0].layer is not None
    assert model.blocks[0].layer.router.kept
    for case in model.golden.cases:
        assert tuple(case.layers) == ("moe", "moe@2")
        assert not np.array_equal(case.layers["moe"].margin, case.layers["moe@2"].margin)
    assert validate(Line(model, tmp_path).bundle("ort"), replay=True).passed


def test_a_layer_is_known_by_its_block_even_where_that_is_called_as_a_pass() -> None:
    blocks = ("a.moe", "a.odd@2")
    assert [block_name(x, blocks) for x in ("a.moe", "a.moe@3", "a.odd@2", "a.odd@2@2")] == [
        *("a.moe", "a.moe"),
        *("a.odd@2", "a.odd@2"),
    ]
