"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from moe_export.cli.console import Console


def _set_verbose(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Console).verbose = True


verbose = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_set_verbose,
    help="On an error, show the whole chain of causes.",
)

as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output.")

python_path = click.option(
    "--python-path",
    multiple=True,
    metavar="FOLDER",
    help="A folder that holds the model's code; may be given several times.",
)

trust_pickle = click.option(
    "--trust-pickle",
    is_flag=True,
    help="Read a pickled module, running whatever code its author put there.",
)


def _read_inputs(_: click.Context, __: click.Parameter, path: str | None) -> Any:
    if path is None:
        return None
    from moe_export.cli.files import read_arrays

    return read_arrays(path)


example_inputs = click.option(
    "--example-inputs",
    metavar="NPZ",
    callback=_read_inputs,
    help="Example inputs by forward's parameter names, for a model that brings none.",
)

device = click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="DEVICE",
    help="What the target ort runs on: cpu, or cuda, an NVIDIA GPU behind ONNX Runtime's CUDA "
    "provider.",
)

precision = click.option(
    "--precision",
    default="f32",
    show_default=True,
    metavar="PRECISION",
    help="How experts store weights: f32 (the model's own numbers), bf16, f16, int8 or int4, with "
    "a block size as in int4:64 and zero points as in int4+zeros. What rows are rounded to may "
    "stand behind, as in int4@bf16.",
)

dense_precision = click.option(
    "--dense-precision",
    default="f32",
    show_default=True,
    metavar="PRECISION",
    help="The same for all other products but a router's: attention, shared experts, the head.",
)

all_logits = click.option(
    "--all-logits",
    is_flag=True,
    help="Of a Transformers model, let the decoder give the logits of every token, to score text "
    "with; by default it gives those of the last.",
)

max_memory = click.option(
    "--max-memory",
    metavar="SIZE",
    help="The memory that may be in use, pages of files aside: 4GiB, 3.5G, 800MiB or a number of "
    "bytes. What needs more ends with exit code 6.",
)

_ENGINE = (
    click.option(
        "--sm",
        "sms",
        multiple=True,
        metavar="SM",
        help="For trt-rtx: a compute capability to build engines for, such as 89 or 12.0; may be "
        "given several times. Default: that of the GPU that is here.",
    ),
    click.option("--max-batch", type=int, metavar="N", help="Texts that an engine runs at once."),
    click.option(
        "--max-tokens", type=int, metavar="N", help="Tokens of a text, those of its cache included."
    ),
    click.option(
        "--max-image-tokens", type=int, metavar="N", help="Features of all images of one run."
    ),
    click.option(
        "--embed-plugins",
        is_flag=True,
        help="Put the plugin library into the engines, which then run without it beside them.",
    ),
)


def engine(command: Any) -> Any:
    """What engines are asked for."""
    for option in reversed(_ENGINE):
        command = option(command)
    return command


SUFFIX = ".moe"

output = click.option(
    "-o",
    "--output",
    metavar="BUNDLE",
    help=f"The bundle's folder. Default: the model's name and {SUFFIX}, in the current folder.",
)


def default_output(model: str) -> str:
    """``model.moe`` for ``folder/model.pt``, ``tiny.moe`` for ``package.module:tiny``.

    A folder keeps its whole name: what follows a dot there is a version, as a rule.
    """
    if Path(model).is_dir():
        return (Path(os.path.abspath(model)).name or "model") + SUFFIX
    return Path(Path(model).name.rpartition(":")[2] or "model").stem + SUFFIX
