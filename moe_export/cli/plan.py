"""``moe-export plan``: what an export will need, before it is begun."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_export.cli import options
from moe_export.cli.console import Console
from moe_export.errors import MemoryBudgetError

if TYPE_CHECKING:
    from moe_export.plan import Plan, Range

_EPILOG = """\
\b
Examples:
  moe-export plan model.pt
  moe-export plan model.pt --json
"""


@click.command(epilog=_EPILOG, short_help="Say what an export will need.")
@click.argument("model")
@options.precision
@options.dense_precision
@options.output
@options.python_path
@options.trust_pickle
@options.as_json
@options.verbose
@click.pass_obj
def plan(
    console: Console,
    /,
    *,
    model: str,
    precision: str,
    dense_precision: str,
    output: str | None,
    python_path: tuple[str, ...],
    trust_pickle: bool,
    as_json: bool,
) -> None:
    """Estimate the memory, disk and time that exporting MODEL needs, from its shapes alone.

    MODEL is loaded and never run. Exits with 6 where even the lower estimate exceeds what this
    machine has.
    """
    from moe_export.spec import export_spec

    spec = export_spec(
        model,
        precision=precision,
        dense_precision=dense_precision,
        output=output or options.default_output(model),
        python_path=python_path,
        trust_pickle=trust_pickle,
    )
    from moe_export import plan as planning
    from moe_export.load import load

    with console.stages(["load"]) as stages:
        stages("load")
        loaded = load(spec)
    made = planning.plan(planning.facts(loaded), spec.precision, spec.dense_precision)
    here = {"memory_bytes": memory_bytes(), "disk_bytes": disk_bytes(spec.output)}
    if as_json:
        console.json(_facts(made, here))
    else:
        _tell(console, loaded.source.description, made, here)
    _refuse_excess(made, here, spec.output)


def memory_bytes() -> int:
    """Memory that a new process could take: what is free, or the limit of this control group."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    for limit in _lines("/sys/fs/cgroup/memory.max"):
        free = min(free, int(limit)) if limit.isdigit() else free
    return free


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []  # not Linux, or no such limit


def disk_bytes(output: Path) -> int:
    """Free bytes where the bundle would lie."""
    return shutil.disk_usage(output.absolute().parent).free


def _facts(made: Plan, here: dict[str, int]) -> dict[str, Any]:
    from moe_export.plan import facts_as_dict
    from moe_export.strict_json import encode

    return {**encode(made), "facts": facts_as_dict(made.facts), "available": here}


def _tell(console: Console, name: str, made: Plan, here: dict[str, int]) -> None:
    from moe_export.report.figures import plural, size

    facts = made.facts
    blocks, experts = plural(len(facts.blocks), "MoE block"), plural(facts.experts, "expert")
    console.out(f"{name}: {size(facts.weight_bytes)} of weights, {blocks} with {experts} in all")
    memory, disk = size(here["memory_bytes"]), size(here["disk_bytes"])
    console.table(
        [
            ("peak memory", f"{_span(made.peak_bytes)}, {memory} available"),
            ("disk", f"{_span(made.disk_bytes)}, {disk} free"),
            *_scratch(made),
            ("time", f"{made.cpu_seconds.low} to {made.cpu_seconds.high} s of one core"),
        ]
    )
    console.out("Blocks are counted by structure; inspect proves them.")


def _scratch(made: Plan) -> list[tuple[str, str]]:
    from moe_export.report.figures import size

    return [("meanwhile", f"{size(made.scratch_bytes)} more")] if made.scratch_bytes else []


def _span(span: Range) -> str:
    from moe_export.report.figures import size

    low, high = size(span.low), size(span.high)
    return low if low == high else f"{low} to {high}"


def _refuse_excess(made: Plan, here: dict[str, int], output: Path) -> None:
    from moe_export.report.figures import size

    if made.peak_bytes.low > here["memory_bytes"]:
        raise MemoryBudgetError(
            f"the export needs at least {size(made.peak_bytes.low)} of memory, "
            f"{size(here['memory_bytes'])} are available",
            hint="export on a machine with more memory; the bundle runs anywhere",
        )
    needed = made.disk_bytes.low + made.scratch_bytes
    if needed > here["disk_bytes"]:
        raise MemoryBudgetError(
            f"the bundle and what is kept meanwhile need at least {size(needed)}, "
            f"{size(here['disk_bytes'])} are free",
            where=str(output.absolute().parent),
            hint="give -o a path on another disk",
        )
