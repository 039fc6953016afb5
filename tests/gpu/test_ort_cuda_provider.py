"""The GPU kernels' custom ops in ONNX Runtime's CUDA provider, where there are one and a GPU.

``tools.gpu_check`` runs this: `make test` has neither.
"""

from __future__ import annotations

import pytest

from moe_export.runtime import cuda_kernels

from .ort_harness import GPU_LIBRARY
from .plugin_harness import require
from .test_ort_cuda_session import require_solved
from .test_plugin_results import PROBLEMS

if (why := cuda_kernels.why_not()) is not None:
    pytest.skip(why, allow_module_level=True)
cuda_kernels.load_cuda()


@pytest.mark.parametrize(("name", "row_type"), PROBLEMS)
def test_an_op_solves_the_problem_in_the_cuda_provider(name: str, row_type: str) -> None:
    require([GPU_LIBRARY])
    require_solved(PROBLEMS[name, row_type], row_type, GPU_LIBRARY, cuda_kernels.PROVIDER)
