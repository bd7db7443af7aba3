"""Options that several commands share, declared once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from heatcli.artifact.model import Model
    from heatcli.images.dataset import Sample

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
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Capture the graph anew, and keep nothing in the user's cache folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Masks = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Masks DIR/NAME.png; default: NAME.mask.png or masks/NAME.png beside the image."),
]
Target = Annotated[str | None, typer.Option(metavar="top|INDEX|LABEL|A-B", help="The score that is explained.")]
MethodsBaseline = Annotated[
    str | None,
    typer.Option("--baseline", metavar="none|zero|black|blur[:SIGMA]|mean[:FILE]|IMAGE", help="For every method that "
                 "takes one and names none."),
]  # fmt: skip
Seed = Annotated[int, typer.Option(help="Of all random numbers.")]
BatchSize = Annotated[int | None, typer.Option(help="Images that go through the network at once; default: by size.")]
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
        "size": shape(size), "channels": channels, "mean": _numbers("--mean", mean), "std": _numbers("--std", std),
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


def samples(
    model: Model, images: list[Path], masks: Path | None, limit: int | None = None
) -> tuple[list[Sample], list[Path]]:
    """The pictures that `images` name, and the paths of those that cannot be read, which are told on stderr."""
    from heatcli.images.dataset import Sample, read

    found: list[Sample] = []
    failed: list[Path] = []
    for sample in read(images, model.labels, model.fit, masks):
        if limit is not None and len(found) >= limit:
            break
        if isinstance(sample, Sample):
            found.append(sample)
        else:
            failed.append(sample[0])
            print(f"heatcli: {sample[1]}", file=sys.stderr)
    return found, failed


def as_json(found: Any) -> bytes:
    """A record as indented JSON, newline at the end."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(found)) + b"\n"


def shape(text: str | None) -> tuple[int, int] | None:
    """`--size N|HxW` as (height, width). Raises `UsageError`."""
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


def passes_bar() -> Callable[[int, int], None] | None:
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


def at_least_one(flag: str, value: int) -> int:
    """The value, if it is 1 or more. Raises `UsageError`."""
    from heatcli.errors import UsageError

    if value < 1:
        raise UsageError(f"{flag} {value} is not allowed; it is at least 1")
    return value


def shard(text: str | None) -> tuple[int, int] | None:
    """`--shard K/N` as (K, N). Raises `UsageError`."""
    from heatcli.errors import UsageError

    if text is None:
        return None
    k, slash, n = text.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise UsageError(f"--shard {text} is not a part; give K/N with K from 1 to N, such as 3/16")
    return int(k), int(n)


def _pairs(flag: str, given: list[str] | None, form: str) -> list[tuple[str, str]]:
    from heatcli.errors import UsageError

    found = []
    for item in given or []:
        name, _, value = item.partition("=")
        if not (name and value):
            raise UsageError(f"{flag} {item} is not of the form {form}")
        found.append((name, value))
    return found


def print_json(record: Any) -> None:
    """One line of JSON on stdout."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(record).decode() + "\n")


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """A count on stderr of what passes through the function that it yields; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:

        def advance(items: Iterable[Any]) -> Iterator[Any]:
            task = bar.add_task(what, total=total)
            for item in items:
                yield item
                bar.advance(task)

        yield advance
