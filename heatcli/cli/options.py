"""Options that several commands share, declared once."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import update_wrapper
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from heatcli.memory import keep_freed

if TYPE_CHECKING:
    from heatcli.artifact.model import Model
    from heatcli.images.dataset import Sample

ModelPath = Annotated[
    Path | None,
    typer.Option("--model", "-m", metavar="PATH", help="TorchScript, ONNX or .pt2 artifact; default: the embedded "
                 "animals model."),
]  # fmt: skip
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


@dataclass
class Load:
    """Loads an artifact as these options say. Raises `UsageError`."""

    output: Annotated[
        str,
        typer.Option(
            metavar="logit|centred-logit|probability",
            help="The score explained: the logit before a final softmax or sigmoid, that less the mean of all "
            "classes, or what the artifact returns.",
        ),
    ] = "logit"
    with_passes: Annotated[
        list[str] | None,
        typer.Option("--pass", metavar="NAME", help="One more graph pass, such as fold-batch-norm."),
    ] = None
    without_passes: Annotated[
        list[str] | None, typer.Option("--no-pass", metavar="NAME", help="Leave a graph pass out.")
    ] = None
    head: Annotated[
        int | None, typer.Option(help="Which of several outputs is explained, from 0; default: the first.")
    ] = None
    class_axis: Annotated[
        int | None, typer.Option(help="The axis of the explained output that holds classes, where that is not clear.")
    ] = None
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=FILE.npy", help="The value of an input that is not the picture."),
    ] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto"
    size: Annotated[str | None, typer.Option(metavar="N|HxW", help="Input size, instead of the sidecar's.")] = None
    channels: Annotated[int | None, typer.Option(help="Input channels, 1 or 3.")] = None
    mean: Annotated[str | None, typer.Option(metavar="M,M,M", help="Mean of red, green, blue (pixels in 0..1).")] = None
    std: Annotated[str | None, typer.Option(metavar="S,S,S", help="Standard deviation of each channel.")] = None
    resize: Annotated[str | None, typer.Option(metavar="stretch|crop|crop:N", help="How a picture gets that size.")] = (
        None
    )
    channels_order: Annotated[
        str | None, typer.Option(metavar="rgb|bgr", help="How the network takes colours; --mean and --std stay rgb.")
    ] = None
    range: Annotated[
        str | None,
        typer.Option(
            metavar="LOW..HIGH|data",
            help="What values of arrays and of pictures of more than 8 bits become 0 and 1; "
            "data: they go in as they are. Default: by the values.",
        ),
    ] = None
    max_pixels: Annotated[
        int | None, typer.Option(metavar="N", help="The largest picture that is read; default: 178,956,970 pixels.")
    ] = None
    labels: Annotated[Path | None, typer.Option(metavar="FILE", help="Class names, one a line.")] = None
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="imagenet|mnist|none|WEIGHTS", help="Preprocessing by name, or as torchvision's weights have it."
        ),
    ] = None
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Capture the graph anew, and keep nothing in the user's cache folder.")
    ] = False
    unverified: Annotated[
        bool,
        typer.Option(
            "--unverified", help="Go on with a model whose graph here computes something else than its own runtime."
        ),
    ] = False
    sandbox: Annotated[
        bool | None,
        typer.Option(
            "--sandbox/--no-sandbox",
            help="Open and capture the model in a child process with limits, so that a bad file is one line; see "
            "`heatcli help security`. Default: on Linux.",
        ),
    ] = None
    max_seconds: Annotated[
        float | None, typer.Option(help="In the sandbox: to open the model, and for each capture; default 120.")
    ] = None
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="In the sandbox, such as 12G: beside ten times the model's file; default 8G."
        ),
    ] = None
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile", help="Machine code from the second batch of a shape on, for long runs; needs a C++ compiler."
        ),
    ] = False
    amp: Annotated[
        bool,
        typer.Option(
            "--amp", help="Convolutions and dense layers in bfloat16: coarser, and faster where the hardware has it."
        ),
    ] = False

    def __post_init__(self) -> None:
        self._input: dict[str, Any] = {
            "size": shape(self.size), "channels": self.channels, "mean": _numbers("--mean", self.mean),
            "std": _numbers("--std", self.std), "resize": self.resize, "order": _order(self.channels_order),
            "range": self.range, "labels": self.labels, "preset": self.preset, "max_pixels": self.max_pixels,
        }  # fmt: skip
        limits = {"max_seconds": _positive("--max-seconds", self.max_seconds), "max_memory": _bytes(self.max_memory)}
        self._limits: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
        self._fresh = "torch" not in sys.modules  # so it has run nothing

    def __call__(self, path: str | Path | None, told: bool = True) -> Model:
        """The model; what there is to note of it goes to stderr, unless `told` is off."""
        from heatcli.artifact.model import load
        from heatcli.artifact.sandbox import AVAILABLE, fresh

        if self._fresh:
            fresh()
        more = [*(self.with_passes or []), *(["mixed-precision"] if self.amp else [])]
        passes = _passes(self.output, more, self.without_passes)
        loaded = load(
            path, self.device, passes, _arrays(self.inputs), self.head, not self.no_cache, self.compiled,
            self.class_axis, self.unverified, AVAILABLE if self.sandbox is None else self.sandbox, **self._limits,
            **self._input,
        )  # fmt: skip
        if told:
            loaded.notes.tell(note)
        gc.freeze()
        gc.set_threshold(*_THRESHOLD)
        return loaded


_THRESHOLD = gc.get_threshold()


def start() -> None:
    """Settings of a process of heatcli's own: it keeps what is freed; it looks for garbage seldom until it has a model.

    Torch's import makes 200,000 objects, which stay; to look among them takes a tenth of the time.
    """
    keep_freed()
    gc.set_threshold(1_000_000)


class Once(TyperCommand):
    """A command that refuses an option of one value given twice, of which only the last would count."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As always. Raises `UsageError`."""
        from heatcli.errors import UsageError

        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for name, count in Counter(p.opts[0] for p in order if p.param_type_name == "option").items():
            if count > 1 and not any(p.multiple or p.is_flag for p in self.params if name in p.opts):  # type: ignore[attr-defined]
                raise UsageError(f"{name} is given {count} times and takes one value; give it once")
        return super().parse_args(ctx, args)


Command = Callable[..., None]
LIMITS = ("sandbox", "max_seconds", "max_memory")
INPUT = (
    "head", "class_axis", "inputs", "device", "size", "channels", "mean", "std", "resize",
    "channels_order", "range", "max_pixels", "labels", "preset", "no_cache",
    "unverified", *LIMITS,
)  # fmt: skip


def loads(*names: str, **fixed: Any) -> Callable[[Command], Command]:
    """Give a command the options of `Load` that are named, and it as `load`; `fixed` are values of others."""
    types = get_type_hints(Load, include_extras=True)
    offered = {name: (types[name], getattr(Load, name)) for name in names}

    def loading(command: Command) -> Command:
        """The command as typer is to see it."""

        def run(**given: Any) -> None:
            load = Load(**fixed, **{name: given.pop(name) for name in offered})
            command(**given, load=load)

        return _signed(run, command, offered)

    return loading


def debuggable(command: Command) -> Command:
    """Give a command `--debug`, which `heatcli.cli.app.main` looks for itself."""

    def run(debug: bool, **given: Any) -> None:
        command(**given)

    return _signed(run, command, {"debug": (Debug, False)})


def _signed(run: Command, command: Command, added: Mapping[str, tuple[Any, Any]]) -> Command:
    """`run` as typer is to see it: with the parameters of `command` but `load`, and `added` ones, type and default."""
    parameters = [p for p in signature(command, eval_str=True).parameters.values() if p.name != "load"]
    for name, (annotation, default) in added.items():
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    update_wrapper(run, command)
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _passes(output: str, more: list[str], less: list[str] | None) -> tuple[str, ...]:
    """The graph passes that `--output`, `--pass` and `--no-pass` stand for. Raises `UsageError`."""
    from heatcli.errors import unknown_name
    from heatcli.graph.passes import DEFAULT, OUTPUTS, PASSES

    for name in less or []:
        if name not in PASSES:
            raise unknown_name("graph pass", name, PASSES)
    if output not in OUTPUTS:
        raise unknown_name("output", output, OUTPUTS)
    chosen = [*(name for name in DEFAULT if name != "logit"), *OUTPUTS[output], *more]
    return tuple(name for name in chosen if name not in (less or []))


def _arrays(given: list[str] | None) -> dict[str, Any]:
    """`--input NAME=FILE.npy` options as tensors. Raises `UsageError`."""
    from heatcli.errors import UsageError, boundary

    found: dict[str, Any] = {}
    for name, file in _pairs("--input", given, "NAME=FILE.npy"):
        import torch

        from heatcli.arrays import MOST_BYTES, read_array
        from heatcli.files import read_regular

        with boundary(f"--input {name}={file}", UsageError, f"{file} cannot be read as an array"):
            found[name] = torch.from_numpy(read_array(read_regular(file, MOST_BYTES)))
    return found


def samples(
    model: Model, images: list[Path], masks: Path | None, limit: int | None = None
) -> tuple[list[Sample], list[Path]]:
    """The pictures that `images` name, and the paths of those that cannot be read, which are told on stderr."""
    from heatcli.images.dataset import Sample, read

    found: list[Sample] = []
    failed: list[Path] = []
    for sample in read(images, model.labels, model.fit, masks, model.reader):
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


def note(text: str) -> None:
    """A note on stderr."""
    print(f"heatcli: note: {text}", file=sys.stderr)


def _order(text: str | None) -> str | None:
    from heatcli.errors import UsageError

    if text not in (None, "rgb", "bgr"):
        raise UsageError(f"--channels-order {text} is not known; use rgb or bgr")
    return text


def _positive(flag: str, value: float | None) -> float | None:
    from heatcli.errors import UsageError

    if value is not None and not 0 < value < 1e9:
        raise UsageError(f"{flag} {value:g} is not allowed; it is more than 0")
    return value


def _bytes(text: str | None) -> int | None:
    """A size such as 800M, 12G or 1.5G. Raises `UsageError`."""
    from heatcli.errors import UsageError

    if text is None:
        return None
    number, unit = text[:-1], "KMGT".find(text[-1:].upper())
    try:
        size = float(number) * 1024 ** (unit + 1)
    except ValueError:
        size = 0.0
    if unit < 0 or not 1 <= size < 1 << 60:
        raise UsageError(f"--max-memory {text} is not a size; give such as 800M or 12G")
    return int(size)


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
        """Show that `done` of `total` passes are done; the bar goes with the last."""
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
    """One line of JSON on stdout, in UTF-8 whatever the terminal has."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.encode(record) + b"\n")


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """A count on stderr of what passes through the function that it yields; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:

        def advance(items: Iterable[Any]) -> Iterator[Any]:
            """The items, each counted when the next is asked for."""
            task = bar.add_task(what, total=total)
            for item in items:
                yield item
                bar.advance(task)

        yield advance
