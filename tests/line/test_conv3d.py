"""Convolutions of patches: a product of matrices where the kernel covers a patch."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from moe_export.capture.onnx_ops import translations
from moe_export.rewrite import torch_ops as _ops  # noqa: F401 - registers what the table names


def _traced(conv: nn.Module, x: torch.Tensor) -> ir.Model:
    program = torch.onnx.export(
        conv,
        (x,),
        dynamo=True,
        verbose=False,
        custom_translation_table=translations(),
        dynamic_shapes=({0: torch.export.Dim("patches")},),
    )
    return program.model


def _run(model: ir.Model, x: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        ir.serde.serialize_model(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("size", "options", "is_product"),
    [
        ((2, 4, 4), {}, True),
        ((2, 4, 8), {}, False),
        ((2, 4, 4), {"padding": (0, 1, 1)}, False),
        ((2, 4, 4), {"groups": 3}, False),
    ],
)
def test_a_kernel_that_covers_its_input_is_a_product(size, options, is_product, bias):
    torch.manual_seed(0)
    conv = nn.Conv3d(3, 6, (2, 4, 4), stride=(2, 4, 4), bias=bias, **options).eval()
    model = _traced(conv, torch.randn(3, 3, *size))
    kinds = [node.op_type for node in model.graph]
    assert ("Gemm" in kinds, "Conv" in kinds) == (is_product, not is_product)
    for patches in (1, 5):
        x = torch.randn(patches, 3, *size)
        with torch.no_grad():
            wanted = conv(x).numpy()
        made = _run(model, x)
        assert made.shape == wanted.shape
        np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-5)
