"""Options that several commands share, declared once."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import update_wrapper
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from heatcli.cli import completion, say, values
from heatcli.system.memory import keep_freed

if TYPE_CHECKING:
    from heatcli.images.dataset import Sample
    from heatcli.model.model import Model

ModelPath = Annotated[
    Path | None,
    typer.Option("--model", "-m", metavar="PATH", help="The model: a TorchScript, ONNX or .pt2 file, or "
                 "torchvision:NAME. Default: the embedded animals model."),
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Masks = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The folder of masks DIR/NAME.png. Default: NAME.mask.png or masks/NAME.png beside the image.",
    ),
]
Param = Annotated[
    list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="Set a parameter of the method.")
]
Rule = Annotated[
    list[str] | None,
    typer.Option(
        "--rule", metavar="KIND|LAYER=RULE[:K=V,…]", help="Use another rule for a kind of operator or for layers."
    ),
]
Composite = Annotated[
    Path | None, typer.Option(metavar="FILE.toml", help="Such rules from the table [rules] of a file.")
]
Layer = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The layer of a CAM method: the name of an operator or of a layer."),
]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write an HTML page, too; it works offline.")]
Target = Annotated[str | None, typer.Option(metavar="top|INDEX|LABEL|A-B", help="The score that is explained.")]
MethodsBaseline = Annotated[
    str | None,
    typer.Option("--baseline", metavar="none|zero|black|blur[:SIGMA]|mean[:FILE]|IMAGE", help="The baseline of each "
                 "method that takes a baseline and names none."),
]  # fmt: skip
Seed = Annotated[int, typer.Option(help="The seed of all random numbers.")]
BatchSize = Annotated[
    int | None, typer.Option(help="How many images go through the network at once. Default: by size.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Print on stderr what heatcli decides, and when; `check`: also what passes."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]


@dataclass
class Load:
    """The options that say how an artifact is loaded. Calling the object loads one. Raises `UsageError`."""

    output: Annotated[
        str,
        typer.Option(
            metavar="logit|centred-logit|probability",
            help="Which score is explained: the logit before a final softmax or sigmoid, the logit minus the mean of "
            "all classes, or the probability that the model returns.",
        ),
    ] = "logit"
    with_passes: Annotated[
        list[str] | None,
        typer.Option("--pass", metavar="NAME", help="Add a graph pass, such as fold-batch-norm."),
    ] = None
    without_passes: Annotated[
        list[str] | None, typer.Option("--no-pass", metavar="NAME", help="Leave a graph pass out.")
    ] = None
    head: Annotated[
        int | None, typer.Option(help="Which of several outputs is explained, counted from 0. Default: the first.")
    ] = None
    class_axis: Annotated[
        int | None,
        typer.Option(help="The axis of the explained output that holds the classes, if heatcli cannot tell."),
    ] = None
    output_kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="classes|labels|binary|regression|segmentation|sequence|embedding|detections",
            help="What the output is, if heatcli reads it wrong; see `heatcli help heads`.",
        ),
    ] = None
    confidence: Annotated[
        float | None, typer.Option(help="The smallest probability of a detector's box. Default: 0.25.")
    ] = None
    overlap: Annotated[
        float | None,
        typer.Option(help="The largest overlap (intersection over union) of two boxes of one class. Default: 0.45."),
    ] = None
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=FILE.npy", help="The value of an input that is not the picture."),
    ] = None
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1 …")] = "auto"
    size: Annotated[
        str | None, typer.Option(metavar="N|HxW|DxHxW", help="The size of the model's input. Default: the sidecar's.")
    ] = None
    axes: Annotated[
        str | None,
        typer.Option(
            metavar="NCHW|NCL|NLC|NL|NCDHW|NDHWC|NDHW|NF|NT",
            help="What the axes of the model's input are: of pictures (HW), signals (L), volumes (DHW), tables (F) or "
            "tokens (T). Default: by their number; see `heatcli help shapes`.",
        ),
    ] = None
    sample_rate: Annotated[
        float | None,
        typer.Option(metavar="HZ", help="How many samples a second a signal has, for the axis of its figure."),
    ] = None
    channels: Annotated[int | None, typer.Option(help="How many channels the model's input has, 1 or 3.")] = None
    mean: Annotated[
        str | None, typer.Option(metavar="M,M,M", help="The mean of red, green, blue (pixels in 0..1).")
    ] = None
    std: Annotated[str | None, typer.Option(metavar="S,S,S", help="The standard deviation of each channel.")] = None
    resize: Annotated[
        str | None,
        typer.Option(
            metavar="stretch|crop|crop:N|letterbox[:corner]", help="How a picture gets the size of the input."
        ),
    ] = None
    channels_order: Annotated[
        str | None,
        typer.Option(
            metavar="rgb|bgr", help="The order of colours that the model takes. --mean and --std stay red, green, blue."
        ),
    ] = None
    range: Annotated[
        str | None,
        typer.Option(
            metavar="LOW..HIGH|data",
            help="Which values become 0 and 1, of arrays and of pictures of more than 8 bits. "
            "data: the values go in as they are. Default: by the values.",
        ),
    ] = None
    max_pixels: Annotated[
        int | None, typer.Option(metavar="N", help="The largest picture that is read. Default: 178,956,970 pixels.")
    ] = None
    labels: Annotated[Path | None, typer.Option(metavar="FILE", help="A file of class names, one a line.")] = None
    concept_names: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help='Names of channels: for each layer a table of lines CHANNEL = "name".'),
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="imagenet|mnist|none|WEIGHTS", help="The preprocessing by name, or that of torchvision's weights."
        ),
    ] = None
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Capture the graph again, and keep nothing in the cache folder.")
    ] = False
    unverified: Annotated[
        bool,
        typer.Option(
            "--unverified",
            help="Go on even if the captured graph computes something else than the model's own runtime.",
        ),
    ] = False
    sandbox: Annotated[
        bool | None,
        typer.Option(
            "--sandbox/--no-sandbox",
            help="Open and capture the model in a child process with limits, so that a bad file costs one line. See "
            "`heatcli help security`. Default: on, where the system is Linux.",
        ),
    ] = None
    max_seconds: Annotated[
        float | None,
        typer.Option(help="The most seconds to open the model, and for each capture, in the sandbox. Default: 120."),
    ] = None
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="The most memory of the sandbox, such as 12G, in addition to ten times the size of the model's "
            "file. Default: 8G.",
        ),
    ] = None
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile to machine code from the second batch on. Worth it in long runs; needs a C++ compiler.",
        ),
    ] = False
    amp: Annotated[
        bool,
        typer.Option(
            "--amp",
            help="Run convolutions and dense layers in bfloat16. Maps are coarser; faster where the hardware has it.",
        ),
    ] = False

    def __post_init__(self) -> None:
        self._input: dict[str, Any] = {
            "size": values.sides(self.size), "axes": self.axes, "channels": self.channels,
            "rate": values.positive("--sample-rate", self.sample_rate),
            "mean": values.numbers("--mean", self.mean), "std": values.numbers("--std", self.std),
            "order": values.channels_order(self.channels_order), "resize": self.resize, "range": self.range,
            "labels": self.labels, "preset": self.preset, "max_pixels": self.max_pixels,
            "concept_names": self.concept_names,
        }  # fmt: skip
        limits = {
            "max_seconds": values.positive("--max-seconds", self.max_seconds),
            "max_memory": values.memory_size(self.max_memory),
        }
        self._limits: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
        self._fresh = "torch" not in sys.modules  # torch has run nothing yet, see `heatcli.artifact.sandbox`

    def __call__(self, path: str | Path | None, told: bool = True, pair: bool = False) -> Model:
        """Load the model at `path`; None is the embedded one. With `told`, print its notes on stderr.

        `pair`: pairs of pictures are explained. Raises `UsageError`, `ModelError`.
        """
        from heatcli.artifact.sandbox import AVAILABLE, fresh
        from heatcli.model.model import load

        if self._fresh:
            fresh()
        more = [*(self.with_passes or []), *(["mixed-precision"] if self.amp else [])]
        passes = _passes(self.output, more, self.without_passes)
        loaded = load(
            path, device=self.device, passes=passes, inputs=values.arrays(self.inputs), head=self.head,
            cache=not self.no_cache, compiled=self.compiled, class_axis=self.class_axis, unverified=self.unverified,
            kind=self.output_kind, confidence=self.confidence, overlap=self.overlap, pair=pair,
            sandbox=AVAILABLE if self.sandbox is None else self.sandbox, **self._limits, **self._input,
        )  # fmt: skip
        say.detail(f"opened {loaded.path}: {loaded.format}, on {loaded.device}")
        if told:
            loaded.notes.tell(say.note)
        gc.freeze()
        if "torchvision" in sys.modules:  # it imports triton, which at exit warns of objects that were not collected
            atexit.register(gc.unfreeze)
        gc.set_threshold(*_THRESHOLD)
        return loaded


_THRESHOLD = gc.get_threshold()


def start() -> None:
    """Settings of a heatcli process: it keeps freed memory, and rarely collects garbage until a model is loaded.

    Importing torch makes 200,000 objects that are never freed; collections among them take a tenth of the start.
    """
    gc.set_threshold(1_000_000)
    keep_freed()


Command = Callable[..., None]
LIMITS = ("sandbox", "max_seconds", "max_memory")
INPUT = (
    "head", "class_axis", "output_kind", "confidence", "overlap", "inputs", "device", "size", "axes", "sample_rate",
    "channels", "mean", "std", "resize",
    "channels_order", "range", "max_pixels", "labels", "preset", "no_cache",
    "unverified", *LIMITS,
)  # fmt: skip


def loads(*names: str, **fixed: Any) -> Callable[[Command], Command]:
    """Decorate a command that takes `load: Load`: it gets the named options of `Load`. `fixed`: values of others."""
    types = get_type_hints(Load, include_extras=True)
    offered = {name: (types[name], getattr(Load, name)) for name in names}

    def loading(command: Command) -> Command:
        """The command with the options in its signature, from which typer reads them."""

        def run(**given: Any) -> None:
            load = Load(**fixed, **{name: given.pop(name) for name in offered})
            command(**given, load=load)

        return _signed(run, command, offered)

    return loading


def common(command: Command) -> Command:
    """Give a command shell completion, and the options that every command has.

    `Command` reads `--quiet` and `--verbose`; `heatcli.cli.app.main` reads `--debug` from the arguments.
    """

    def run(quiet: bool, verbose: bool, debug: bool, **given: Any) -> None:
        command(**given)

    made = _signed(run, command, {"quiet": (Quiet, False), "verbose": (Verbose, False), "debug": (Debug, False)})
    for name, annotation in made.__annotations__.items():
        for info in getattr(annotation, "__metadata__", ()):
            info.autocompletion = completion.of(name, info)
    return made


def _signed(run: Command, command: Command, added: Mapping[str, tuple[Any, Any]]) -> Command:
    """`run` with the signature of `command`, without `load`. `added`: further parameters, name → (type, default)."""
    parameters = [p for p in signature(command, eval_str=True).parameters.values() if p.name != "load"]
    for name, (annotation, default) in added.items():
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    update_wrapper(run, command)
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _passes(output: str, more: list[str], less: list[str] | None) -> tuple[str, ...]:
    """The names of the graph passes for `--output`, `--pass` and `--no-pass`. Raises `UsageError`."""
    from heatcli.errors import UsageError, unknown_name
    from heatcli.graph.passes import DEFAULT, OUTPUTS, PASSES

    for name in less or []:
        if name not in PASSES:
            raise unknown_name("graph pass", name, PASSES)
    if output not in OUTPUTS:
        raise unknown_name("output", output, OUTPUTS, ways="; -o FILE names the figure" if Path(output).suffix else "")
    chosen = [*(name for name in DEFAULT if name != "logit"), *OUTPUTS[output], *more]
    for name in less or []:
        if name not in chosen:
            on = ", ".join(chosen)
            raise UsageError(f"--no-pass {name}: this pass is not on, so there is nothing to leave out; on are {on}")
    return tuple(name for name in chosen if name not in (less or []))


def repeated(context: typer.Context) -> list[str]:
    """The options of `Load` on the command line, as arguments for another command."""
    names, found = {each.name for each in fields(Load)}, list[str]()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in names or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[parameter.name]
        if isinstance(value, bool):
            found.append((parameter.opts if value else parameter.secondary_opts)[0])
            continue
        for one in value if isinstance(value, (list, tuple)) else [value]:
            found += [parameter.opts[0], str(one)]
    return found


def samples(
    model: Model, images: list[Path], masks: Path | None, limit: int | None = None
) -> tuple[list[Sample], list[Path]]:
    """The pictures that `images` name, at most `limit`, and the paths of those that cannot be read.

    `masks`: the folder of masks. Each error is printed on stderr. Raises `typer.Exit` with status 1 if no picture can
    be read, `UsageError`.
    """
    from heatcli.images.dataset import Sample, read

    found: list[Sample] = []
    failed: list[Path] = []
    for sample in read(images, model.labels, model.pictures.fit, masks, model.pictures.reader):
        if limit is not None and len(found) >= limit:
            break
        if isinstance(sample, Sample):
            found.append(sample)
        else:
            failed.append(sample[0])
            say.error(sample[1])
    if failed and not found:
        raise typer.Exit(1)
    return found, failed
