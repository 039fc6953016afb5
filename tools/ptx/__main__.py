"""``python -m tools.ptx``: builds PTX files for the executor, and the mock driver.

usage: python -m tools.ptx build FOLDER FILE.ptx ...    kernels for MOE_EXPORT_PTX_MODULE
       python -m tools.ptx driver                       prints the folder of libcuda.so.1
"""

from __future__ import annotations

import sys
from pathlib import Path

from .build import CompilerError, build, mock_driver
from .forms import PtxError


def main(arguments: list[str]) -> int:
    if len(arguments) >= 3 and arguments[0] == "build":
        for file in arguments[2:]:
            try:
                print(build(Path(file), Path(arguments[1])))
            except (PtxError, CompilerError) as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
        return 0
    if arguments == ["driver"]:
        print(mock_driver().parent)
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
