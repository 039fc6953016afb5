"""Every block of the zoo goes the whole line in one model, and is traced, never baked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moe_export import Bundle, Session
from moe_export.bundle import bundle as write_bundle
from moe_export.capture import Rounding, capture
from moe_export.capture.golden import record
from moe_export.capture.look import look_at
from moe_export.forms import Golden, MarkedModel, PortableModel
from moe_export.load import load
from moe_export.lower import lower
from moe_export.moe.quantize import Precision, parse_precision
from moe_export.rewrite import rewrite
from moe_export.spec import export_spec
from moe_export.validate import validate
from zoo import RECOGNISED

WIDTH = 32


class Zoo(nn.Module):
    """``x [B, S, 32]`` to each block's output, each on as many of the features as it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes = {case.name: case.input_shape for case in RECOGNISED}
        self.blocks = nn.ModuleDict({case.name: case.build() for case in RECOGNISED})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        outputs = {}
        for name, block in self.blocks.items():
            shape = self.shapes[name]
            part = x[..., : shape[-1]]
            y = block(part.reshape(-1, shape[-1]) if len(shape) == 2 else part)
            outputs[name] = y[0] if isinstance(y, tuple) else y
        return outputs


def tokens(batch: int, sequence: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch * 1000 + sequence)
    return torch.randn(batch, sequence, WIDTH, generator=generator) * 1.5


@pytest.fixture(scope="module")
def marked() -> MarkedModel:
    return rewrite(load(export_spec(Zoo().eval(), example_inputs=(tokens(2, 9),))))


@pytest.fixture(scope="module", params=["f32", "int8"])
def precision(request: pytest.FixtureRequest) -> Precision:
    return parse_precision(request.param)


@pytest.fixture(scope="module")
def portable(marked: MarkedModel, precision: Precision) -> PortableModel:
    return capture(marked, precision)


@pytest.fixture(scope="module", params=["ort", "standard"])
def zoo(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    portable: PortableModel,
) -> Bundle:
    return write_bundle(lower(portable, request.param), tmp_path_factory.mktemp("zoo"))


def test_every_block_is_proven_inside_a_model(marked: MarkedModel) -> None:
    assert {block.path for block in marked.proven} == {f"blocks.{c.name}" for c in RECOGNISED}


@pytest.fixture(scope="module")
def elsewhere(marked: MarkedModel, precision: Precision) -> Golden:
    """The eager model on token counts and numbers that the tracer never saw."""
    inputs = {f"T = {b * s}": {"x": tokens(b, s)} for b, s in [(1, 1), (1, 7), (1, 257), (7, 90)]}
    golden, _ = record(marked, inputs, look_at(marked).names, Rounding(experts=precision))
    return golden


def test_other_token_counts_agree_with_eager_within_earned_tolerances(
    zoo: Bundle, elsewhere: Golden
) -> None:
    report = validate(zoo, elsewhere)
    assert [t for t in report.tensors if not t.passed] == []
    assert [r for r in report.routing if not r.passed] == []
    assert len(report.tensors) > 2 * len(RECOGNISED)


def test_every_expert_is_reached_through_the_graph(zoo: Bundle, elsewhere: Golden) -> None:
    seen: dict[str, set[int]] = {}
    with Session(zoo, graph="probe") as session:
        for case in elsewhere.cases:
            made = session.run(case.inputs)
            for layer in case.layers:
                seen.setdefault(layer, set()).update(made[f"{layer}/topk_ids"].ravel().tolist())
    for case in RECOGNISED:
        assert case.router is not None
        assert seen[f"blocks.{case.name}"] == set(range(case.router.num_experts)), case.name


@pytest.mark.parametrize(("batch", "sequence"), [(0, 4), (1, 0)])
def test_no_tokens_at_all_give_empty_outputs(zoo: Bundle, batch: int, sequence: int) -> None:
    with Session(zoo) as session:
        made = session.run({"x": np.zeros((batch, sequence, WIDTH), np.float32)})
    assert {array.size for array in made.values()} == {0}
