"""What `make wheel` refuses."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from tools.wheel_check import DEPENDENCIES, KERNELS, problems

NAME = "moe_export-0.1.0-py3-none-manylinux_2_34_x86_64.whl"


def wheel(folder: Path, *, name: str = NAME, needs: set[str] = DEPENDENCIES, **files: str) -> Path:
    """A wheel of the package's name that needs packages and holds files, ``__`` for ``/``."""
    lines = [f"Requires-Dist: {each}>=1,<2" for each in sorted(needs)]
    lines.append('Requires-Dist: torch<3,>=2.13; extra == "export"')
    with zipfile.ZipFile(folder / name, "w") as made:
        made.writestr("moe_export-0.1.0.dist-info/METADATA", "\n".join(lines) + "\n\nwords\n")
        for path, content in ({"kernels": KERNELS} | files).items():
            made.writestr(content if path == "kernels" else path.replace("__", "/"), content)
    return folder / name


def test_a_wheel_as_it_is_built_is_fine(tmp_path, capsys):
    assert problems(wheel(tmp_path)) == []
    assert "needs numpy>=1,<2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "moe_export-0.1.0-py3-none-linux_x86_64.whl"}, "not for every Python 3"),
        ({"name": "moe_export-0.1.0-cp311-cp311-manylinux_2_34_x86_64.whl"}, "every Python 3"),
        ({"needs": DEPENDENCIES | {"click"}}, "it needs .*click"),
        ({"needs": DEPENDENCIES - {"pillow"}}, "it needs .*and not"),
        ({"moe_export.libs__libgomp.so": "x"}, "holds moe_export.libs/libgomp.so"),
        ({"tests__test_x.py": "x"}, "holds tests/test_x.py"),
        ({"kernels": "moe_export/__init__.py"}, "has no moe_export/native"),
    ],
    ids=["system", "one Python", "more", "less", "a library", "tests", "no kernels"],
)
def test_what_a_wheel_may_not_be_is_told(tmp_path, changes, message):
    (problem,) = problems(wheel(tmp_path, **changes))
    assert re.search(message, problem)
