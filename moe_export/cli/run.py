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
@click.option("--max-new-tokens", type=int, metavar="N", help="The longest answer, in tokens.")
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
    max_new_tokens: int | None,
    inputs: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Run BUNDLE on --prompt and --image, or on the arrays of --inputs."""
    if (inputs is None) == (prompt is None):
        raise click.UsageError("one of --prompt and --inputs is needed")
    if inputs is not None:
        if images or max_new_tokens is not None:
            raise click.UsageError("--image and --max-new-tokens go with --prompt")
        _run_arrays(console, bundle, inputs, output, as_json=as_json)
        return
    if output is not None:
        raise click.UsageError("--output goes with --inputs")
    _answer(console, bundle, images, str(prompt), max_new_tokens, as_json=as_json)


def _answer(
    console: Console,
    bundle: str,
    images: tuple[str, ...],
    prompt: str,
    max_new_tokens: int | None,
    *,
    as_json: bool,
) -> None:
    from moe_export.runtime import generator

    image = list(images) if len(images) > 1 else next(iter(images), None)
    pieces = generator(bundle).stream(image, prompt, max_new_tokens=max_new_tokens)
    if as_json:
        console.json({"prompt": prompt, "image": image, "answer": "".join(pieces)})
        return
    for piece in pieces:
        console.piece(piece)
    console.piece("\n")


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
