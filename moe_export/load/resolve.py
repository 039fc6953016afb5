"""From ``package.module:factory`` to the function, without running code that nobody marked.

A name that stands in a file is not to be trusted.  Its module is found without importing anything,
and its source text must define a top-level function of that name under ``@model_factory``; only
then is it imported, and only if the function that comes out carries the mark is it handed out.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from moe_export.errors import UnsafeInputError, UsageError
from moe_export.load.factory import is_marked
from moe_export.load.usercode import run_user_code

# Long enough for any package, short enough to print.
_MAX_NAME = 200
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_MARKERS = ("moe_export", "moe_export.load.factory")
_HINT = "install the package that holds the factory, or name its folder with --python-path"


def is_factory_name(text: str) -> bool:
    """Whether ``text`` is spelt ``package.module:factory``: ASCII identifiers, nothing else."""
    return len(text) <= _MAX_NAME and _NAME.fullmatch(text) is not None


def add_python_path(folders: Iterable[Path]) -> None:
    """Let modules in ``folders`` be imported, before all others, for the rest of the process."""
    entries = [str(folder.absolute()) for folder in folders]
    if sys.path[: len(entries)] != entries:
        sys.path[:0] = entries


@contextlib.contextmanager
def without_current_folder() -> Iterator[None]:
    """Inside, the current folder cannot be imported from unless the user put it on the path.

    Python itself adds it: as ``""`` in an interactive session, and as the first entry under
    ``python -m``.  Someone who only changed into a folder of downloads did not choose its code.
    """
    before = list(sys.path)
    sys.path[:] = [entry for entry in before if entry]
    started_by_m = getattr(sys.modules.get("__main__"), "__spec__", None) is not None
    if started_by_m and not sys.flags.safe_path and os.getcwd() in sys.path:
        # The first occurrence only: a later one is the user's, or an editable install.
        sys.path.remove(os.getcwd())
    during = list(sys.path)
    try:
        yield
    finally:
        if sys.path == during:
            sys.path[:] = before


def marked_factory(name: str, *, where: str) -> Callable[..., Any]:
    """The function ``name`` that a file at ``where`` asks for, if it may be called.

    The module is already imported, or can be found on ``sys.path`` as a source file that marks
    the function.  Raises ``UnsafeInputError`` otherwise, before anything has been imported that is
    not marked, and ``UsageError`` if the module itself fails to import.
    """
    module_name, _, function_name = name.partition(":")
    if not is_factory_name(name):
        raise UnsafeInputError(
            f"the factory name {name[:_MAX_NAME]!r} is not of the form package.module:function",
            where=where,
        )
    module = sys.modules.get(module_name)
    if module is None:
        path = marked_source(name, where=where)
        module = _import(module_name, where=f"factory {name!r}")
        _require_origin(module, path, where=where)
    function = vars(module).get(function_name)
    if not is_marked(function) or function.__module__ != module_name:
        raise _not_marked(name, where)
    return function


def marked_source(name: str, *, where: str) -> Path:
    """The source file in which ``name`` is a marked factory, found by reading alone.

    Raises ``UnsafeInputError`` if there is no such file, or no such mark in its text.
    """
    module_name, _, function_name = name.partition(":")
    path = _find_source(module_name)
    if path is None:
        raise UnsafeInputError(
            f"the factory {name!r} is in no Python source file that can be imported from here",
            where=where,
            hint=_HINT,
        )
    try:
        tree = ast.parse(importlib.util.decode_source(path.read_bytes()))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(
            f"the source of factory {name!r} cannot be read: {error}", where=str(path)
        ) from error
    if not _marks(tree, function_name):
        raise _not_marked(name, where)
    return path


def trusted_attribute(name: str) -> Any:
    """The object ``package.module:name`` that the user asked for in person.

    The current folder is put at the end of ``sys.path``.  Raises ``UsageError`` if the module is
    not there or fails to import, or has no such attribute.
    """
    add_current_folder()
    module_name, _, attribute = name.partition(":")
    module = _import(module_name, where=name)
    if not hasattr(module, attribute):
        offers = sorted(key for key, value in vars(module).items() if is_marked(value))
        raise UsageError(
            f"module {module_name!r} has no attribute {attribute!r}",
            where=name,
            hint=f"it has the factories {', '.join(offers)}" if offers else None,
        )
    return getattr(module, attribute)


def add_current_folder() -> None:
    """Let the current folder be imported from, after everything else, as ``python -m`` would."""
    # "" is the current folder wherever that is, and ``without_current_folder`` knows it by name.
    if "" not in sys.path:
        sys.path.append("")


def _import(module_name: str, *, where: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return run_user_code(
            lambda: importlib.import_module(module_name),
            failure=f"importing {module_name!r} failed",
            where=where,
        )
    except UsageError as error:
        cause = error.__cause__
        missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if missing and (module_name == missing or module_name.startswith(missing + ".")):
            raise UsageError(
                f"there is no module {module_name!r}", where=where, hint=_HINT
            ) from cause
        raise


def _find_source(module_name: str) -> Path | None:
    """Where ``import module_name`` would find its source, with no module being run to know it."""
    importlib.invalidate_caches()
    found: ModuleSpec | None = None
    locations: list[str] | None = None
    prefix: list[str] = []
    for segment in module_name.split("."):
        if prefix and locations is None:
            return None
        prefix.append(segment)
        imported = sys.modules.get(".".join(prefix))
        if imported is not None:
            found, locations = imported.__spec__, _locations(getattr(imported, "__path__", None))
            continue
        # By its bare name: looked up by the full one, a namespace package asks for its parent.
        found = PathFinder.find_spec(segment, locations) or _find_elsewhere(prefix)
        locations = _locations(found.submodule_search_locations if found else None)
    if found is None or not found.has_location or not found.origin:
        return None
    path = Path(found.origin)
    return path if path.suffix == ".py" and path.is_file() else None


def _find_elsewhere(prefix: list[str]) -> ModuleSpec | None:
    """A top-level module that an editable install serves through a finder of its own."""
    if len(prefix) > 1 or prefix[0] in sys.builtin_module_names:
        return None
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        found = find(prefix[0], None) if find else None
        if isinstance(found, ModuleSpec):
            return found
    return None


def _locations(locations: Iterable[str] | None) -> list[str] | None:
    return None if locations is None else list(locations)


def _require_origin(module: ModuleType, path: Path, *, where: str) -> None:
    origin = getattr(module.__spec__, "origin", None)
    if origin is None or not os.path.exists(origin) or not os.path.samefile(origin, path):
        raise UnsafeInputError(
            f"module {module.__name__!r} was imported from {origin}, not from {path}", where=where
        )


def _marks(tree: ast.Module, function_name: str) -> bool:
    decorators = _decorator_names(tree)
    return any(
        isinstance(node, ast.FunctionDef)
        and node.name == function_name
        and any(_dotted(decorator) in decorators for decorator in node.decorator_list)
        for node in tree.body
    )


def _decorator_names(tree: ast.Module) -> set[str]:
    """Every spelling of ``moe_export.model_factory`` that the module's own imports allow."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in _MARKERS:
                    names.add(f"{alias.asname or alias.name}.model_factory")
        if isinstance(node, ast.ImportFrom) and node.module in _MARKERS and node.level == 0:
            for alias in node.names:
                if alias.name == "model_factory":
                    names.add(alias.asname or alias.name)
    return names


def _dotted(node: ast.expr) -> str | None:
    """``a.b.c`` for an attribute chain, called or not; ``None`` for any other expression."""
    if isinstance(node, ast.Call):
        node = node.func
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def _not_marked(name: str, where: str) -> UnsafeInputError:
    return UnsafeInputError(
        f"{name!r} is not a top-level function marked with @moe_export.model_factory",
        where=where,
        hint="a file may only name functions that their author marked; see docs/trust.md",
    )
