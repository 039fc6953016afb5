"""``moe-export plan``: what an export will need, before it is begun."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_export.cli import options
from moe_export.cli.console import Console
from moe_export.errors import MemoryBudgetError

if TYPE_CHECKING:
    from moe_export.forms import ExportSpec, LoadedModel
    from moe_export.plan import Plan

_EPILOG = """\
\b
Examples:
  moe-export plan model.pt
  moe-export plan model.pt --max-memory 8GiB --json
"""


@click.command(epilog=_EPILOG, short_help="Say what an export will need.")
@click.argument("model")
@options.precision
@options.dense_precision
@options.output
@options.python_path
@options.trust_pickle
@options.all_logits
@options.max_memory
@options.as_json
@options.verbose
@click.pass_obj
def plan(
    console: Console, /, *, model: str, output: str | None, as_json: bool, **words: Any
) -> None:
    """Estimate the memory, disk and time that exporting MODEL needs, from its shapes alone.

    MODEL is loaded and never run. Exits with 6 where even the lower estimate exceeds what this
    machine has, or what --max-memory allows.
    """
    from moe_export.spec import export_spec

    spec = export_spec(model, output=output or options.default_output(model), **words)
    from moe_export import plan as planning
    from moe_export.load import load
    from moe_export.needs import free_bytes, require_disk, require_memory

    with console.stages(["load"]) as stages:
        stages("load")
        loaded = load(spec)
    made = planning.plan(
        planning.facts(loaded),
        spec.precision,
        spec.dense_precision,
        slowness=planning.core_slowness(),
    )
    free = free_bytes(spec.output.absolute().parent)
    here = {"memory_bytes": memory_bytes(), "disk_bytes": free}
    if as_json:
        console.json(_facts(made, here, spec.max_memory))
    else:
        _tell(console, loaded, made, here, spec)
    _require_memory_here(made, here["memory_bytes"])
    require_memory(made, spec.max_memory)
    require_disk(made, spec.output, loaded.spool_folder)


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


def _facts(made: Plan, here: dict[str, int], max_memory: int | None) -> dict[str, Any]:
    from moe_export.needs import enough_memory
    from moe_export.plan import facts_as_dict
    from moe_export.strict_json import encode

    allowed = None
    if max_memory is not None:
        allowed = {"bytes": max_memory, "enough": enough_memory(made, max_memory)}
    facts = facts_as_dict(made.facts)
    return {**encode(made), "facts": facts, "available": here, "max_memory": allowed}


def _tell(
    console: Console, loaded: LoadedModel, made: Plan, here: dict[str, int], spec: ExportSpec
) -> None:
    from moe_export.needs import span
    from moe_export.report.figures import plural, size

    facts, name = made.facts, loaded.source.description
    blocks, experts = plural(len(facts.blocks), "MoE block"), plural(facts.experts, "expert")
    console.out(f"{name}: {size(facts.weight_bytes)} of weights, {blocks} with {experts} in all")
    memory, disk = size(here["memory_bytes"]), size(here["disk_bytes"])
    console.table(
        [
            ("peak memory", f"{span(made.peak_bytes)}, {memory} available"),
            *_own_memory(made, spec.max_memory),
            ("disk", f"{span(made.disk_bytes)}, {disk} free"),
            *_scratch(made, loaded),
            ("time", f"{made.cpu_seconds.low} to {made.cpu_seconds.high} s of one core"),
        ]
    )
    console.out(
        "Blocks are counted by structure; inspect proves them, and says whose router is kept."
    )


def _own_memory(made: Plan, max_memory: int | None) -> list[tuple[str, str]]:
    from moe_export.needs import enough_memory, span
    from moe_export.report.figures import size

    if max_memory is None:
        return []
    verdicts = {"yes": "is enough", "perhaps": "may be too little", "no": "is too little"}
    verdict = verdicts[enough_memory(made, max_memory)]
    return [("of it own", f"{span(made.own_bytes)}, for which {size(max_memory)} {verdict}")]


def _scratch(made: Plan, loaded: LoadedModel) -> list[tuple[str, str]]:
    from moe_export.needs import scratch_folder
    from moe_export.report.figures import size

    if not made.scratch_bytes:
        return []
    folder = scratch_folder(loaded.spool_folder).absolute()
    return [("meanwhile", f"{size(made.scratch_bytes)} more in {folder}")]


def _require_memory_here(made: Plan, available: int) -> None:
    from moe_export.report.figures import size

    if made.peak_bytes.low > available:
        raise MemoryBudgetError(
            f"the export needs at least {size(made.peak_bytes.low)} of memory, "
            f"{size(available)} are available",
            hint="export on a machine with more memory; the bundle runs anywhere",
        )
