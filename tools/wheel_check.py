"""Say what a wheel holds and asks for, and fail where that is not what a service may expect.

usage: tools/wheel_check.py WHEEL
"""

from __future__ import annotations

import re
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

DEPENDENCIES = {"numpy", "onnxruntime", "pillow", "tokenizers"}
KERNELS = "moe_export/native/libmoe_export_ort.so"
# What a wheel consists of: the package, what installers read, and the licence.
PARTS = re.compile(r"moe_export/|moe_export-[^/]+\.dist-info/")
# Larger than Python sources and kernels are; GPU libraries, where they were built, come on top.
MAX_BYTES = 4 << 20


def problems(wheel: Path) -> list[str]:
    """What is wrong with a wheel, after saying what is in it."""
    with zipfile.ZipFile(wheel) as file:
        sizes = {info.filename: info.file_size for info in file.infolist()}
        metadata = next(name for name in sizes if name.endswith(".dist-info/METADATA"))
        required = Parser().parsestr(file.read(metadata).decode()).get_all("Requires-Dist", [])
    plain = sorted(each for each in required if "extra ==" not in each)
    native = {name: size for name, size in sizes.items() if name.endswith(".so")}
    compressed = wheel.stat().st_size
    print(f"{wheel.name}: {compressed:,} bytes, {sum(sizes.values()):,} unpacked")
    print("needs", *(each.replace(" ", "") for each in plain))
    for name, size in sorted(native.items()):
        print(f"{name}: {size:,} bytes")

    found = []
    if not re.search(r"-py3-none-manylinux_\d+_\d+_\w+\.whl$", wheel.name):
        found.append("the wheel is not for every Python 3 on manylinux")
    names = {re.split(r"[^\w-]", each, maxsplit=1)[0].lower() for each in plain}
    if names != DEPENDENCIES:
        found.append(f"it needs {sorted(names)} and not {sorted(DEPENDENCIES)}")
    if KERNELS not in native:
        found.append(f"it has no {KERNELS}")
    strays = sorted(name for name in sizes if not PARTS.match(name))
    if strays:
        found.append(f"it holds {strays[0]}: a library of this system, or a file of no package")
    if compressed > MAX_BYTES and not any("cuda" in name or "trt" in name for name in native):
        found.append(f"it has more than {MAX_BYTES:,} bytes")
    return found


def main() -> int:
    (wheel,) = sys.argv[1:]
    found = problems(Path(wheel))
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
