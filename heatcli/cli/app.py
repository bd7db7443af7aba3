"""The command line, assembled from one file per command. Torch is imported only where a command needs it."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer

from heatcli.cli import (
    activations,
    bench,
    check,
    compare,
    completion,
    concepts,
    config,
    discover,
    evaluate,
    explain,
    export,
    filters,
    fit_expert,
    gallery,
    help,
    inspect,
    joint,
    mean,
    merge,
    methods,
    options,
    prototype,
    show,
    signals,
)  # fmt: skip
from heatcli.cli.command import Command
from heatcli.cli.streams import told_by_status
from heatcli.cli.talk import Interrupted
from heatcli.errors import HeatcliError, first_line, one_line
from heatcli.version import __version__

app = typer.Typer(
    name="heatcli",
    help="Shows why a deployed image classifier said what it said.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for file in (
    explain, export, show, gallery, discover, methods, inspect, mean, bench, check, compare, evaluate, merge,
    activations, concepts, joint, filters, prototype, fit_expert, config, help,
):  # fmt: skip
    app.command(file.__name__.rpartition(".")[2].replace("_", "-"), cls=Command)(options.common(file.command))


def _version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        typer.echo(f"heatcli {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Shows why a deployed image classifier said what it said."""


@told_by_status
def main() -> None:
    """Run the command line. Every error ends in one line on stderr and an exit status (`heatcli.errors`)."""
    options.start()
    with signals.interruptible():
        _run()


def _run() -> None:
    """Run the command line; every error ends the process."""
    try:
        with completion.whole_words():
            status = app(standalone_mode=False) or 0
    except Interrupted as error:
        _end(str(error), error.status)
    except KeyboardInterrupt:
        _end("interrupted", 128 + (signals.came[0] if signals.came else 2))
    except Exception as error:
        if signals.came:  # torch can turn an interrupt into another exception
            _end("interrupted", 128 + signals.came[0])
        if hasattr(error, "format_message"):  # an error of click, in any version
            _misused(error)
        if "--debug" in sys.argv:
            traceback.print_exception(error)
        if isinstance(error, HeatcliError):
            _end(str(error), error.status)
        if isinstance(error, (OSError, MemoryError)):  # the operating system refused something
            _end(f"{_file(error)}{getattr(error, 'strerror', None) or 'out of memory'}", 1)
        _end(f"internal error: {type(error).__name__}: {first_line(error)}; run again with --debug and report it", 1)
    if signals.came:  # typer turns an interrupt into an exit status
        _end("interrupted", 128 + signals.came[0])
    sys.exit(status)


def _misused(error: Any) -> NoReturn:
    """End with one line on what is wrong on the command line. For an empty one, click has already printed the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.exit(error.exit_code)
    context = getattr(error, "ctx", None)
    if getattr(error, "option_name", None) == "--model":
        _end("No such option: --model; this command takes the model as its first argument", error.exit_code)
    where = "heatcli" if context is None or context.parent is None else f"heatcli {context.info_name}"
    _end(f"{one_line(error.format_message().rstrip('.'))}; {where} --help lists what there is", error.exit_code)


def _file(error: BaseException) -> str:
    """The file that the operating system refused, as the beginning of a message."""
    name = getattr(error, "filename", None)
    return "" if name is None else f"{name}: "


def _end(message: str, status: int) -> NoReturn:
    """Print a message, and end the process with that status."""
    print(f"heatcli: {message}", file=sys.stderr)
    if signals.came:  # the interpreter would crash or wait on threads of torch that still run
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
