"""The tensors of a Transformers directory: whole files, known names, fitting shapes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors

from moe_export.errors import UnsafeInputError, UsageError
from moe_export.load.usercode import run_user_code
from moe_export.strict_json import parse

_ONE_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"

# What Transformers says of tensors that it had to join or split on the way into the model.
_NOT_JOINED = re.compile(r"^(?P<why>.*)\nError: .* on tensors destined for (?P<name>\S+)\. ", re.M)


def whole_files(folder: Path) -> list[Path]:
    """The files of a directory's weights; refused where they are pickled, not there or not whole.

    No tensor is read.
    """
    files = _files(folder)
    for path in files:
        try:
            with safetensors.safe_open(path, framework="pt"):
                pass
        except (OSError, safetensors.SafetensorError) as error:
            raise UnsafeInputError(
                f"not a whole safetensors file: {error}",
                where=str(path),
                hint="it may have been cut short when it was copied",
            ) from error
    return files


def _files(folder: Path) -> list[Path]:
    if (folder / _ONE_FILE).is_file():
        return [folder / _ONE_FILE]
    if (folder / _INDEX).is_file():
        return [folder / name for name in _shards(folder / _INDEX)]
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise UnsafeInputError(
            "the weights are pickled, and loading them could run any code",
            where=str(folder),
            hint="save them as safetensors, which save_pretrained does",
        )
    raise UsageError(
        "there are no weights beside the configuration",
        where=str(folder),
        hint=f"the directory needs {_ONE_FILE}, or {_INDEX} and the files that it names",
    )


def _shards(index: Path) -> list[str]:
    """The files that an index names: plain names, so that all lie beside it."""
    value = parse(index.read_bytes(), str(index))
    by_tensor = value.get("weight_map") if isinstance(value, dict) else None
    names = set(by_tensor.values()) if isinstance(by_tensor, dict) else set()
    odd = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if odd or not names:
        raise UnsafeInputError(
            f"the index names {odd[0]!r:.80}, which is no file beside it"
            if odd
            else "the index names no file",
            where=str(index),
        )
    return sorted(names)


def read_whole(read: Callable[[], tuple[Any, Any]], folder: Path) -> Any:
    """The model of ``read``, which also gives what Transformers found odd about its tensors.

    Raises ``UnsafeInputError`` for a tensor that is missing, unknown or misshapen, by name, and
    ``UsageError`` for what else keeps Transformers from making the model.
    """
    with _unsaid() as said:
        model, facts = run_user_code(
            lambda: _joined(read, said, folder),
            failure="Transformers cannot load the model",
            where=str(folder),
        )
    for what, words in (
        ("missing_keys", "is missing from the checkpoint"),
        ("mismatched_keys", "has another shape in the checkpoint than in the model"),
        ("unexpected_keys", "is in the checkpoint and not in the model"),
    ):
        names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in facts[what])
        if names:
            more = f", and {len(names) - 1} more" if len(names) > 1 else ""
            raise UnsafeInputError(f"the tensor {names[0]!r} {words}{more}", where=str(folder))
    return model


def _joined(read: Callable[[], tuple[Any, Any]], said: list[str], folder: Path) -> tuple[Any, Any]:
    try:
        return read()
    except RuntimeError as error:
        found = _NOT_JOINED.search("\n".join(said))
        if found is None:
            raise
        raise UnsafeInputError(
            f"the tensors for {found['name']!r} cannot be put together: {found['why']}",
            where=str(folder),
        ) from error


@contextmanager
def _unsaid() -> Iterator[list[str]]:
    """What Transformers would say on standard error, bars left out, in a list instead."""
    from transformers.utils import logging as of_transformers

    bars: Any = of_transformers
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger = logging.getLogger("transformers")
    handlers, has_bars = logger.handlers, bars.is_progress_bar_enabled()
    logger.handlers = [Listener()]
    bars.disable_progress_bar()
    try:
        yield said
    finally:
        logger.handlers = handlers
        if has_bars:
            bars.enable_progress_bar()
