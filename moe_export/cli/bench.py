"""``moe-export bench``: how fast a bundle is, where its time goes, and how others do beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from moe_export.cli import options
from moe_export.cli.console import Console
from moe_export.cli.files import read_arrays

if TYPE_CHECKING:
    from moe_export.bench import Contestant
    from moe_export.forms import Array
    from moe_export.runtime.bundle import Bundle

EAGER = "eager"

_EPILOG = """\
\b
Examples:
  moe-export bench model.moe
  moe-export bench model.moe --inputs long.npz --threads 1
  moe-export bench model.moe --against standard.moe
  moe-export bench model.moe --against eager --source model.pt --json
"""


@click.command(epilog=_EPILOG, short_help="Measure a bundle beside its peers.")
@click.argument("bundle")
@click.option(
    "--against",
    multiple=True,
    metavar="PEER",
    help=f"Measure in turn with it: another bundle, or {EAGER}, the model of --source in PyTorch; "
    "may be given several times.",
)
@click.option("--source", metavar="MODEL", help=f"The model that {EAGER} is.")
@options.python_path
@options.trust_pickle
@click.option(
    "--inputs",
    metavar="FILE",
    help="An .npz file with an array for each input. Default: the bundle's first golden case.",
)
@click.option("--threads", type=int, metavar="N", help="Default: one for each core.")
@click.option(
    "--seconds",
    type=float,
    default=10.0,
    show_default=True,
    metavar="S",
    help="How long to measure, all contestants together.",
)
@options.as_json
@options.verbose
@click.pass_obj
def bench(
    console: Console,
    /,
    *,
    bundle: str,
    against: tuple[str, ...],
    source: str | None,
    python_path: tuple[str, ...],
    trust_pickle: bool,
    inputs: str | None,
    threads: int | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Measure BUNDLE: tokens per second, what the MoE ops take, how near the machine's limits.

    Contestants take turns in one process, A B A B: compare what one run of this command prints,
    and no milliseconds of two.
    """
    if (source is None) == (EAGER in against):
        raise click.UsageError(f"--against {EAGER} and --source go together")
    if source is None and (python_path or trust_pickle):
        raise click.UsageError("--python-path and --trust-pickle need --source")
    if threads is not None and threads < 1:
        raise click.UsageError("--threads must be 1 or more")
    from moe_export.bench import bench as measure
    from moe_export.bench.table import lines
    from moe_export.runtime.bundle import Bundle

    opened = Bundle.open(bundle)
    described, arrays = _inputs(opened, inputs)
    component = opened.component_taking(arrays)
    contestants = {name: _peer(name, component, threads) for name in against if name != EAGER}
    if source is not None:
        contestants[EAGER] = _eager(
            source, component, python_path, threads, trust_pickle=trust_pickle
        )
    with console.stages(["measure"]) as stages:
        stages("measure")
        result = measure(
            opened,
            arrays,
            described=described,
            component=component,
            against=contestants,
            threads=threads,
            seconds=seconds,
        )
    if as_json:
        console.json(result)
        return
    for line in lines(result):
        console.out(line)


def _inputs(bundle: Bundle, path: str | None) -> tuple[str, dict[str, Array]]:
    """Where the inputs come from, and the inputs."""
    if path is not None:
        return path, read_arrays(path)
    from moe_export.forms import MAIN_COMPONENT

    case = bundle.golden().cases[0]
    of = "" if case.component == MAIN_COMPONENT else f" of {case.component}"
    return f"golden case {case.name}{of}", dict(case.inputs)


def _peer(path: str, component: str, threads: int | None) -> Contestant:
    from moe_export.runtime.session import Session

    return Session(path, component=component, threads=threads).run


def _eager(
    source: str,
    component: str,
    python_path: tuple[str, ...],
    threads: int | None,
    *,
    trust_pickle: bool,
) -> Contestant:
    """The model itself, or the part of it that became the component, in PyTorch."""
    from moe_export.errors import UsageError
    from moe_export.spec import export_spec

    spec = export_spec(source, python_path=python_path, trust_pickle=trust_pickle)
    import torch

    from moe_export.load import load

    made_of = load(spec)
    parts = {part.component: part for part in (made_of, *made_of.beside)}
    loaded = parts.get(component, made_of)  # of another model: its inputs will say so
    if threads is not None:
        torch.set_num_threads(threads)

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        if inputs.keys() != loaded.example_inputs.keys():
            raise UsageError(
                f"{source} takes {', '.join(loaded.example_inputs)}, the bundle "
                f"{', '.join(inputs)}",
                where="--source",
                hint="name the model that the bundle was made of",
            )
        with torch.inference_mode():
            made = loaded.module(**{name: torch.from_numpy(inputs[name]) for name in inputs})
        if isinstance(made, torch.Tensor):
            return {"output": made.numpy()}
        return {name: made[name].numpy() for name in made} if made_of.beside else {}

    return run
