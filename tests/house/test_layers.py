"""The import contracts of ``pyproject.toml``: each one bites, and says what it promises.

That they hold is checked by ``lint-imports`` itself (``make layers``).
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "moe_export"
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]

LINT = """
import sys
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
from importlinter.cli import lint_imports
sys.exit(lint_imports(no_logo=True, cache_dir=None))
"""


def forbidden_imports(contract: dict) -> set[tuple[str, str]]:
    """Every (importer, imported) that the contract rules out."""
    sources = contract.get("source_modules") or contract["modules"]
    targets = contract.get("forbidden_modules") or contract["modules"]
    return {(source, target) for source in sources for target in targets if source != target}


def plant(root: Path, importer: str, imported: str) -> None:
    """Write ``import imported`` into the module ``importer``, or a new module of that package."""
    place = root.joinpath(*importer.split("."))
    file = place / "planted.py" if place.is_dir() else place.with_suffix(".py")
    with file.open("a") as opened:
        opened.write(f"\nimport {imported}\n")


@pytest.fixture(scope="module")
def verdict_on_planted(tmp_path_factory) -> str:
    """What import-linter says of a copy in which every forbidden import was written."""
    root = tmp_path_factory.mktemp("planted")
    shutil.copytree(PACKAGE, root / "moe_export", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for contract in CONTRACTS:
        for importer, imported in forbidden_imports(contract):
            plant(root, importer, imported)
    # -S: without the finder of the editable install, which would prefer the checkout to the copy.
    command = [sys.executable, "-S", "-c", LINT, str(root), sysconfig.get_path("purelib")]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert result.returncode == 1, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract["id"])
def test_a_contract_names_every_forbidden_import_that_is_written(contract, verdict_on_planted):
    _, _, details = verdict_on_planted.partition(f"\n{contract['name']}\n---")
    details = re.split(r"\n.+\n-{9}", details)[0]
    missed = {
        f"{importer} -> {imported}"
        for importer, imported in forbidden_imports(contract)
        if f"{importer} is not allowed to import {imported}:" not in details
    }
    assert not missed


def test_every_room_of_the_package_is_under_a_contract():
    """A new room has to say what it may import; these four may import everything."""
    free = {"moe_export.api", "moe_export.cli", "moe_export.pipeline", "moe_export.plan"}
    rooms = {
        f"moe_export.{path.stem}"
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
        if not path.name.startswith("__")
    }
    bound = {importer for contract in CONTRACTS for importer, _ in forbidden_imports(contract)}
    assert rooms - free == bound


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_no_python_module_imports_from_the_native_side():
    importers = [
        path
        for path in PACKAGE.rglob("*.py")
        if any(name.partition(".")[0] == "plugins" for name in imported_modules(path))
    ]
    assert not importers


@pytest.mark.parametrize("room", ["load", "rewrite", "capture", "moe"])
def test_no_room_before_lowering_has_heard_of_a_target(room):
    heard = [
        f"{path.relative_to(ROOT)}: {match.group(0)}"
        for path in (PACKAGE / room).rglob("*")
        if path.suffix in (".py", ".onnxtxt")
        for match in re.finditer(r"tensorrt|\btrt\b|trt-rtx", path.read_text(), re.IGNORECASE)
    ]
    assert not heard
