"""``python -m tools.ptx``: builds PTX files for the executor, and the mock driver.

usage: python -m tools.ptx build FOLDER FILE.ptx ...    kernels for MOE_EXPORT_PTX_MODULE
       python -m tools.ptx driver                       prints the folder of libcuda.so.1
"""

from __future__ import annotations

import sys
from pathlib import Path

from .build import CompilerError, build_all, mock_driver
from .forms import PtxError


def main(arguments: list[str]) -> int:
    if len(arguments) >= 3 and arguments[0] == "build":
        try:
            built = build_all([Path(file) for file in arguments[2:]], Path(arguments[1]))
        except (PtxError, CompilerError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print("\n".join(map(str, built)))
        return 0
    if arguments == ["driver"]:
        print(mock_driver().parent)
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
