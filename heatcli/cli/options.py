"""Options that several commands share, declared once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

ModelPath = Annotated[
    Path | None,
    typer.Option("--model", "-m", metavar="PATH", help="TorchScript, ONNX or .pt2 artifact; default: the embedded "
                 "animals model."),
]  # fmt: skip
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]
Size = Annotated[
    str | None,
    typer.Option(metavar="N|HxW", help="Input size, instead of the sidecar's."),
]
Channels = Annotated[int | None, typer.Option(help="Input channels, 1 or 3.")]
Mean = Annotated[
    str | None,
    typer.Option(metavar="M,M,M", help="Mean of each channel (pixels in 0..1)."),
]
Std = Annotated[str | None, typer.Option(metavar="S,S,S", help="Standard deviation of each channel.")]
Resize = Annotated[
    str | None,
    typer.Option(metavar="stretch|crop|crop:N", help="How a picture gets that size."),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="imagenet|mnist|none|WEIGHTS", help="Preprocessing by name, or as torchvision's weights have it."
    ),
]
Labels = Annotated[Path | None, typer.Option(metavar="FILE", help="Class names, one a line.")]
Output = Annotated[
    str,
    typer.Option(
        metavar="logit|centred-logit|probability",
        help="The score explained: the logit before a final softmax or sigmoid, that less the mean of all classes, or "
        "what the artifact returns.",
    ),
]
Passes = Annotated[
    list[str] | None,
    typer.Option("--pass", metavar="NAME", help="One more graph pass, such as fold-batch-norm."),
]
NoPasses = Annotated[list[str] | None, typer.Option("--no-pass", metavar="NAME", help="Leave a graph pass out.")]
Head = Annotated[int, typer.Option(help="Which of several outputs is explained, from 0.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NAME=FILE.npy", help="The value of an input that is not the picture."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]


def model_flags(
    size: str | None,
    channels: int | None,
    mean: str | None,
    std: str | None,
    resize: str | None,
    labels: Path | None,
    preset: str | None = None,
) -> dict[str, Any]:
    """The keyword arguments of `heatcli.load` that these options stand for. Raises `UsageError`."""
    return {
        "preset": preset,
        "size": _size(size), "channels": channels, "mean": _numbers("--mean", mean), "std": _numbers("--std", std),
        "resize": resize, "labels": labels,
    }  # fmt: skip


def passes(output: str, more: list[str] | None, less: list[str] | None) -> tuple[str, ...]:
    """The graph passes that `--output`, `--pass` and `--no-pass` stand for. Raises `UsageError`."""
    from heatcli.errors import unknown_name
    from heatcli.graph.passes import DEFAULT, OUTPUTS

    if output not in OUTPUTS:
        raise unknown_name("output", output, OUTPUTS)
    chosen = [*(name for name in DEFAULT if name != "logit"), *OUTPUTS[output], *(more or [])]
    return tuple(name for name in chosen if name not in (less or []))


def arrays(given: list[str] | None) -> dict[str, Any]:
    """`--input NAME=FILE.npy` options as tensors. Raises `UsageError`."""
    from heatcli.errors import UsageError, first_line

    found: dict[str, Any] = {}
    for name, file in _pairs("--input", given, "NAME=FILE.npy"):
        import numpy as np
        import torch

        try:
            found[name] = torch.from_numpy(np.load(file, allow_pickle=False))
        except (OSError, ValueError, EOFError, TypeError) as error:
            raise UsageError(
                f"--input {name}={file}: {file} cannot be read as an array: {first_line(error)}"
            ) from error
    return found


def _size(text: str | None) -> tuple[int, int] | None:
    from heatcli.errors import UsageError

    if text is None:
        return None
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) > 2 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise UsageError(f"--size {text} is not a size; give HEIGHTxWIDTH, such as 224x224, or one number")
    return int(parts[0]), int(parts[-1])


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    from heatcli.errors import UsageError

    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{flag} {text} is not a list of numbers; give one a channel, such as 0.5,0.5,0.5") from error


def progress() -> Callable[[int, int], None] | None:
    """A bar on stderr for methods of many passes, gone when they are done; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    bar = Progress(
        "passes", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    )
    task = bar.add_task("passes", total=None)

    def show(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)
        if done == total:
            bar.stop()
            bar.reset(task)

    return show


def parameters(given: list[str] | None) -> dict[str, str]:
    """`--param k=v` options as a dictionary. Raises `UsageError`."""
    return dict(_pairs("--param", given, "name=value"))


def _pairs(flag: str, given: list[str] | None, form: str) -> list[tuple[str, str]]:
    from heatcli.errors import UsageError

    found = []
    for item in given or []:
        name, _, value = item.partition("=")
        if not (name and value):
            raise UsageError(f"{flag} {item} is not of the form {form}")
        found.append((name, value))
    return found
