"""What an export needs beside what there is: one that cannot fit is refused before it begins."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from moe_export.errors import DiskFullError, MemoryBudgetError
from moe_export.report.figures import size

if TYPE_CHECKING:
    from moe_export.forms import Golden, GoldenCase
    from moe_export.plan import Plan, Range


def require_memory(made: Plan, max_memory: int | None) -> None:
    """Raise ``MemoryBudgetError`` where the least that the plan foresees is above the budget."""
    if max_memory is not None and enough_memory(made, max_memory) == "no":
        raise MemoryBudgetError(
            f"the export is foreseen to have {span(made.own_bytes)} of memory in use, "
            f"--max-memory allows {size(max_memory)}",
            where="--max-memory",
            hint=f"{size(made.own_bytes.high)} should be enough",
        )


def require_memory_to_validate(golden: Golden, in_use: int, max_memory: int | None) -> None:
    """Raise ``MemoryBudgetError`` where no run of the largest golden case fits the budget.

    What is ``in_use`` stays so, and a run has its inputs and its outputs in memory.
    """
    if max_memory is None:
        return
    least = in_use + max((_run_bytes(case) for case in golden.cases), default=0)
    if least > max_memory:
        raise MemoryBudgetError(
            f"the validation needs at least {size(least)} of memory, "
            f"--max-memory allows {size(max_memory)}",
            where="--max-memory",
            hint="allow more",
        )


def _run_bytes(case: GoldenCase) -> int:
    """Of inputs and outputs, one of which is in memory here."""
    return sum(x.nbytes for group in (case.inputs, case.outputs) for x in group.values())


def enough_memory(made: Plan, max_memory: int) -> Literal["yes", "perhaps", "no"]:
    """Whether an export stays within so many bytes, as far as the plan can tell."""
    if made.own_bytes.high <= max_memory:
        return "yes"
    return "perhaps" if made.own_bytes.low <= max_memory else "no"


def require_disk(made: Plan, output: Path, spool_folder: Path | None) -> None:
    """Raise ``MemoryBudgetError`` where the least that the plan foresees is not free on the disk.

    The bundle goes beside ``output``.  Quantised weights are kept in ``spool_folder`` meanwhile, or
    where the system has temporary files; on one disk both have to fit.
    """
    beside, needed = output.absolute().parent, made.disk_bytes.low
    what = "the bundle needs"
    if made.scratch_bytes:
        scratch = scratch_folder(spool_folder)
        kept = "the quantised weights that are kept meanwhile need"
        if scratch.stat().st_dev == beside.stat().st_dev:
            needed += made.scratch_bytes
            what = f"the bundle and {kept}"
        else:
            _require(scratch, made.scratch_bytes, kept, "set TMPDIR to a folder on another disk")
    _require(beside, needed, what, "free some space, or give -o a path on another disk")


def _require(folder: Path, needed: int, what: str, hint: str) -> None:
    free = free_bytes(folder)
    if needed > free:
        raise MemoryBudgetError(
            f"{what} at least {size(needed)} of disk, {size(free)} are free",
            where=str(folder),
            hint=hint,
        )


def scratch_folder(spool_folder: Path | None) -> Path:
    """Where quantised weights are kept while an export runs."""
    return spool_folder or Path(tempfile.gettempdir())


def free_bytes(folder: Path) -> int:
    """What may still be written to the disk of ``folder``."""
    return shutil.disk_usage(folder).free


@contextmanager
def foreseen(made: Plan) -> Iterator[None]:
    """Where a disk is full all the same, say what the plan had foreseen."""
    try:
        yield
    except DiskFullError as error:
        kept = f", quantised weights meanwhile {size(made.scratch_bytes)}"
        raise DiskFullError(
            f"{error.message}; the bundle is foreseen to take {span(made.disk_bytes)}"
            f"{kept if made.scratch_bytes else ''}",
            where=error.where,
            hint=error.hint,
        ) from error


def span(expected: Range) -> str:
    """From the least to the most, in words."""
    low, high = size(expected.low), size(expected.high)
    return low if low == high else f"{low} to {high}"
