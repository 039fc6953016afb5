"""What cannot be exported exactly is refused, in the user's words, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import moe_export
from moe_export import CaptureError, CompletenessError, RewriteError
from zoo.look_alikes import LOOK_ALIKES

BY_NAME = {case.name: case for case in LOOK_ALIKES}


class Wrapped(nn.Module):
    """A model around one block of the zoo."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.block = BY_NAME[name].build()

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return y[0] if isinstance(y, tuple) else y


def export(model: nn.Module, output: Path, *inputs: Tensor) -> moe_export.Bundle:
    return moe_export.export(model.eval(), output=output, example_inputs=inputs)


def test_a_router_that_draws_noise_is_refused_as_not_deterministic(tmp_path: Path) -> None:
    x = torch.randn(BY_NAME["noisy_router"].input_shape)
    with pytest.raises(CaptureError, match=r"two runs of the model .* differ.*random"):
        export(Wrapped("noisy_router"), tmp_path / "out", x)
    assert list(tmp_path.iterdir()) == []


class Skipping(nn.Module):
    """Squares its weights, which no op does, and skips experts that nobody chose.

    A tracer could follow that only by deciding for good who is skipped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, 8)
        weights, ids = self.gate(rows).softmax(-1).topk(2, dim=-1)
        y = torch.zeros_like(rows)
        for e, expert in enumerate(self.experts):
            token, choice = torch.where(ids == e)
            if token.numel() == 0:
                continue
            y.index_add_(0, token, expert(rows[token]) * weights[token, choice, None] ** 2)
        return y.view_as(x)


class Wrapping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Skipping()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


def test_a_block_that_would_be_baked_in_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(RewriteError, match=r"baking in.*no known router") as refusal:
        export(Wrapping(), tmp_path / "out", torch.randn(2, 5, 8))
    assert "register_block" in str(refusal.value.hint)
    assert "block (Skipping)" in str(refusal.value.where)
    assert list(tmp_path.iterdir()) == []


class Dense(nn.Module):
    """A look-alike that is exact as it is written: every expert is evaluated, then smoothed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(-1) ** 2
        each = torch.stack([expert(x) for expert in self.experts], dim=-1)
        return (each * weights.unsqueeze(-2)).sum(-1)


def test_an_unproven_block_that_can_be_exported_exactly_is_exported_unfused(tmp_path: Path) -> None:
    bundle = export(Dense(), tmp_path / "out", torch.randn(2, 5, 8))
    (block,) = bundle.manifest.blocks
    assert block.status == "unfused"
    assert "no known router" in str(block.reason)
    assert bundle.manifest.verdict == "passed"


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens).reshape(2, 5 * 4)


def test_a_model_that_fixes_its_batch_is_refused_and_told_how_to_fix_it_on_purpose(
    tmp_path: Path,
) -> None:
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    with pytest.raises(CaptureError, match="axis 0 of input 'tokens' would be fixed to 2"):
        export(Fixed(), tmp_path / "out", tokens)
    bundle = moe_export.export(
        Fixed().eval(), output=tmp_path / "out", example_inputs=(tokens,), dynamic_shapes={}
    )
    assert bundle.manifest.verdict == "passed"


def test_a_lost_tensor_stops_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moe_export import capture

    complete = capture.take_weights

    def lossy(*args: object) -> dict[str, object]:
        weights = complete(*args)  # type: ignore[arg-type]
        weights.pop("experts.1.weight", None)
        weights.pop("gate.weight")
        return weights  # type: ignore[return-value]

    monkeypatch.setattr(capture, "take_weights", lossy)
    with pytest.raises(CompletenessError, match="missing from the bundle") as refusal:
        export(Dense(), tmp_path / "out", torch.randn(2, 5, 8))
    assert refusal.value.where is not None
    assert list(tmp_path.iterdir()) == []
