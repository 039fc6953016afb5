"""``moe-export run``: a bundle at work, on a question or on arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from moe_export.cli import options
from moe_export.cli.console import Console
from moe_export.cli.files import read_arrays, write_arrays

if TYPE_CHECKING:
    from moe_export.forms import Array

_EPILOG = """\
\b
Examples:
  moe-export run model.moe --image digit.png --prompt "Which digit is it?"
  moe-export run model.moe --inputs in.npz --output out.npz
"""


_ANSWERING = (
    click.option("--max-new-tokens", type=int, metavar="N", help="The longest answer, in tokens."),
    click.option(
        "--temperature",
        type=float,
        metavar="T",
        help="Draw each token, the more freely the higher; by default, or with 0, the likeliest "
        "is taken.",
    ),
    click.option("--top-k", type=int, metavar="N", help="Draw from the N likeliest tokens alone."),
    click.option(
        "--top-p",
        type=float,
        metavar="P",
        help="Draw from the fewest tokens alone that together have probability P.",
    ),
    click.option(
        "--repetition-penalty",
        type=float,
        metavar="R",
        help="Above 1: make what prompt or answer hold already less likely.",
    ),
    click.option(
        "--seed", type=int, metavar="N", help="Of the draws: equal seeds give equal answers."
    ),
    click.option(
        "--stop",
        multiple=True,
        metavar="TEXT",
        help="End the answer in front of this text; may be given several times.",
    ),
)


def _answering(command: Any) -> Any:
    """How an answer is chosen."""
    for option in reversed(_ANSWERING):
        command = option(command)
    return command


@click.command(epilog=_EPILOG, short_help="Run a bundle on a question or on arrays.")
@click.argument("bundle")
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE",
    help="The image that the prompt is about; may be given several times.",
)
@click.option("--prompt", metavar="TEXT", help="What to ask; the answer goes to standard output.")
@_answering
@click.option("--inputs", metavar="FILE", help="An .npz file with an array for each input.")
@click.option("--output", metavar="FILE", help="Where the outputs go, as an .npz file.")
@options.as_json
@options.verbose
@click.pass_obj
def run(
    console: Console,
    /,
    *,
    bundle: str,
    images: tuple[str, ...],
    prompt: str | None,
    inputs: str | None,
    output: str | None,
    as_json: bool,
    **choosing: Any,
) -> None:
    """Run BUNDLE on --prompt and --image, or on the arrays of --inputs."""
    if (inputs is None) == (prompt is None):
        raise click.UsageError("one of --prompt and --inputs is needed")
    chosen = {name: value for name, value in choosing.items() if value not in (None, ())}
    if inputs is not None:
        for name in (*(["image"] if images else []), *chosen):
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --prompt")
        _run_arrays(console, bundle, inputs, output, as_json=as_json)
        return
    if output is not None:
        raise click.UsageError("--output goes with --inputs")
    _answer(console, bundle, images, str(prompt), chosen, as_json=as_json)


def _answer(
    console: Console,
    bundle: str,
    images: tuple[str, ...],
    prompt: str,
    chosen: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    from moe_export.runtime.generator import Generator

    image = list(images) if len(images) > 1 else next(iter(images), None)
    with Generator(bundle) as generator, generator.stream(image, prompt, **chosen) as pieces:
        for piece in pieces:
            if not as_json:
                console.piece(piece)
        answer = pieces.answer
    if not as_json:
        console.piece("\n")
        return
    said = {"answer": answer.text, "ids": answer.ids, "finish_reason": answer.finish_reason}
    console.json({"prompt": prompt, "image": image, **said})


def _run_arrays(
    console: Console, bundle: str, inputs: str, output: str | None, *, as_json: bool
) -> None:
    from moe_export.runtime.bundle import Bundle
    from moe_export.runtime.session import Session

    opened, arrays = Bundle.open(bundle), read_arrays(inputs)
    with Session(opened, component=opened.component_taking(arrays)) as session:
        outputs = session.run(arrays)
    if output is not None:
        write_arrays(output, outputs)
    if as_json:
        console.json({"outputs": _facts(outputs), "file": output})
        return
    for name, array in outputs.items():
        console.note(f"{name} {array.dtype} {list(array.shape)}")
    if output is None:
        console.note("nothing was written: --output FILE keeps the arrays")


def _facts(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Shape, dtype and range of each array."""
    return {
        name: {
            "dtype": array.dtype.name,
            "shape": list(array.shape),
            "min": array.min().item() if array.size else None,
            "max": array.max().item() if array.size else None,
        }
        for name, array in arrays.items()
    }
