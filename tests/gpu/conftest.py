"""Where there is no GPU, what stands for it: the mock driver and the kernels on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

from tools.ptx.build import CompilerError, mock_driver

KERNELS = Path(__file__).parents[2] / "build" / "ptx" / "shipped"


def _stand_in() -> None:
    """``tools/gpu/build.sh tests`` built the kernels; a real driver needs none of this."""
    if "MOE_EXPORT_CUDA_DRIVER" in os.environ or not KERNELS.is_dir():
        return
    try:
        driver = mock_driver()
    except CompilerError:
        return
    os.environ["MOE_EXPORT_CUDA_DRIVER"] = str(driver)
    os.environ["MOE_EXPORT_PTX_MODULE"] = str(KERNELS)


_stand_in()  # before a module of tests opens libcuda.so.1
