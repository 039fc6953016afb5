"""The program: its commands, the one that needs no name, and what becomes of every failure."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

import moe_export
from moe_export.cli.bench import bench
from moe_export.cli.build import build
from moe_export.cli.console import Console
from moe_export.cli.diff import diff
from moe_export.cli.doctor import doctor
from moe_export.cli.export import export
from moe_export.cli.inspect import inspect
from moe_export.cli.plan import plan
from moe_export.cli.report import report
from moe_export.cli.run import run
from moe_export.cli.signals import TerminatedError, raising
from moe_export.cli.validate import validate
from moe_export.errors import MoeExportError, UsageError

NAME = "moe-export"
DEFAULT = "export"

# As shells report a program that ended by SIGINT, SIGPIPE or SIGTERM.
INTERRUPTED = 128 + 2
PIPE_CLOSED = 128 + 13
TERMINATED = 128 + 15


class Program(click.Group):
    """A group whose first word may be left out: then it is ``export``."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run one invocation and exit with its status.

        Only what a user can act on is caught; anything else is a bug and stays a traceback.
        """
        if "_MOE_EXPORT_COMPLETE" in os.environ:
            super().main(args, NAME)  # answers the shell that completes a line
        console = Console()
        words = list(sys.argv[1:] if args is None else args)
        try:
            with raising():
                status = self._status(words, console)
            sys.exit(status)
        except MoeExportError as error:
            console.fail(error)
            sys.exit(error.exit_code)
        except TerminatedError:
            console.note("terminated")
            sys.exit(TERMINATED)
        except KeyboardInterrupt:
            console.note("interrupted")
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            _leave_pipe()
            sys.exit(PIPE_CLOSED)
        except Exception as bug:
            bug.add_note(f"This is a bug in {NAME} {moe_export.__version__}: please report it.")
            raise

    def _status(self, words: list[str], console: Console) -> int:
        try:
            with self.make_context(NAME, words, obj=console) as context:
                self.invoke(context)
            sys.stdout.flush()
        except click.exceptions.Exit as done:
            return done.exit_code
        except click.ClickException as error:
            raise _in_our_words(error) from error
        return 0

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._with_command(args))

    def _with_command(self, args: list[str]) -> list[str]:
        if not args:
            return ["--help"]
        if args[0] in self.commands or args[0] in ("-h", "--help", "--version"):
            return args
        self._refuse_misspelt(args[0])
        self._refuse_late(args)
        return [DEFAULT, *args]

    def _refuse_misspelt(self, word: str) -> None:
        """Refuse a first word that is no model and nearly a command."""
        if not word.isalpha() or os.path.lexists(word):
            return
        near = difflib.get_close_matches(word, self.commands, n=1, cutoff=0.7)
        if near:
            raise UsageError(
                f"there is no command and no file {word!r}",
                where=NAME,
                hint=f"did you mean {NAME} {near[0]}?",
            )

    def _refuse_late(self, args: list[str]) -> None:
        """Refuse a command behind its options, which the default would take for a model."""
        taking = {
            name
            for option in self.commands[DEFAULT].params
            if isinstance(option, click.Option) and not option.is_flag
            for name in option.opts
        }
        before = ["", *args]
        plain = [
            word
            for word, other in zip(args, before, strict=False)
            if not word.startswith("-") and other not in taking
        ]
        if plain and plain[0] in self.commands and not os.path.lexists(plain[0]):
            raise UsageError(
                f"the command {plain[0]!r} stands behind its options",
                where=NAME,
                hint=f"put it first: {NAME} {plain[0]} …",
            )

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(NAME, "MODEL [-o BUNDLE] [OPTIONS]")
        formatter.write_usage(NAME, "COMMAND …", prefix="       ")


def _in_our_words(error: click.ClickException) -> UsageError:
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else NAME
    hint = f"{where} --help"
    message = error.format_message()
    match error:
        case click.exceptions.NoSuchOption(possibilities=[near, *_]):
            message, hint = f"no such option {error.option_name}", f"did you mean {near}?"
        case click.exceptions.NoSuchOption():
            message = f"no such option {error.option_name}"
        case click.exceptions.MissingParameter(param=click.Argument() as argument):
            message = f"no {argument.metavar or str(argument.name).upper()} was named"
            command = str(context.info_name) if context is not None else ""
            if os.path.lexists(command):
                hint = f"a model of that name is reached as ./{command}"
    message = message.removesuffix(".")
    return UsageError(message[:1].lower() + message[1:], where=where, hint=hint)


def _leave_pipe() -> None:
    """Let the interpreter flush into nothing when it ends."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nothing, stream.fileno())
        except (OSError, ValueError):
            continue  # not a real stream


_EPILOG = """\
\b
Examples:
  moe-export model.pt                            makes the bundle model.moe
  moe-export my_package.models:tiny -o tiny.moe
  moe-export inspect model.moe
  moe-export validate model.moe
  moe-export run model.moe --image digit.png --prompt "Which digit is it?"

\b
Exit codes:
  0  done                          5  something is missing here: a package,
  1  a bug in moe-export              a library, a GPU, a version
  2  the request is wrong          6  does not fit the memory or the disk
  3  model or target unsupported   7  unsafe or corrupt input refused
  4  the bundle differs from     130  interrupted, and 143 terminated
     the eager model             141  the reader of a pipe went away
"""

program = Program(
    name=NAME,
    help=(
        "Turn a PyTorch mixture-of-experts vision-language model into a verified bundle that runs "
        "without PyTorch.\n\n"
        "Without a command, MODEL is exported. A model whose name is that of a command is reached "
        "as ./NAME."
    ),
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    commands=[export, inspect, validate, report, diff, run, bench, plan, build, doctor],
)
program = click.version_option(
    moe_export.__version__, prog_name=NAME, message="%(prog)s %(version)s"
)(program)
