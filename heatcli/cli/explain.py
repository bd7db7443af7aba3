"""`heatcli explain`: figures and reports for images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatcli.cli import drawing, options, say, settings, values
from heatcli.cli.running import explained
from heatcli.errors import UsageError

if TYPE_CHECKING:
    from heatcli.figures.draw import Style
    from heatcli.methods.method import Method
    from heatcli.model.model import Model
    from heatcli.run import Request


TUNED_ON = 16  # the most pictures that a value is sought on
# Flags that sequences refuse; a file of settings may have them for the pictures of other models.
FOR_PICTURES = ("figure", "output_file", "arrays", "show", "expected", "pair")

Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE|FOLDER|PATTERN|LIST.txt|-...",
        help="Images, folders of images, quoted patterns, lists in a text file or on stdin (-); or their URLs.",
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="The method; see `heatcli methods`. Repeat it to see several side by side. Default: lrp-eps, "
        "with the baseline blur.",
    ),
]
Param = Annotated[
    list[str] | None,
    typer.Option(
        "--param", metavar="NAME=VALUE", help="Set a parameter of the method. auto: find the best gamma or epsilon."
    ),
]
Smooth = Annotated[
    str | None,
    typer.Option(metavar="N:SIGMA", help="Average over N noisy images; SIGMA is a share of the input's range."),
]
Concept = Annotated[
    str | None,
    typer.Option(
        metavar="LAYER[:CHANNEL,...]",
        help="Show only the relevance that flows through this layer, or through these channels of it.",
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        metavar="none|zero|black|blur[:SIGMA]|mean[:FILE]|IMAGE|FOLDER", help="What the image is compared with."
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="top|top:K|INDEX|LABEL|A-B|A@T|path|detections|box:N",
        help="Which class is explained. top:K: a report for each of K classes. A-B: A rather than B. A@T: at "
        "position T. path: the best of each position. detections, box:N: boxes of a "
        "detector (`heatcli help detectors`).",
    ),
]
RightLabel = Annotated[
    str | None,
    typer.Option(
        metavar="LABEL|CSV",
        help="The right label, or a CSV file with a line image,label for each. If the model gives another "
        "label, the difference of the two is explained.",
    ),
]
Region = Annotated[
    str | None,
    typer.Option(
        metavar="L,T,R,B|MASK",
        help="For outputs with positions, such as segmentation: sum the class's scores in this region. "
        "Default: where the class wins.",
    ),
]
Pair = Annotated[
    str | None,
    typer.Option(
        metavar="IMAGE",
        help="A second picture. The similarity of its embedding to each image's is explained, on both "
        "pictures. For a network that takes two pictures: the second one.",
    ),
]
Similarity = Annotated[
    str | None, typer.Option(metavar="cosine|dot", help="The similarity of a pair. Default: cosine.")
]
Out = Annotated[str | None, typer.Option(metavar="DIR", help="Where figures and reports go. Default: heatmaps.")]
Recursive = Annotated[
    bool, typer.Option("--recursive", "-r", help="Read folders below, too. The outputs mirror the tree.")
]
Glob = Annotated[
    str | None, typer.Option(metavar="PATTERN", help="Read only the files of a folder that match this pattern.")
]
Shard = Annotated[str | None, typer.Option(metavar="K/N", help="Explain the K-th of N parts of the images, by name.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Forget the earlier runs in the folder, and write all files again.")
]
Index = Annotated[
    str | None,
    typer.Option(metavar="jsonl|parquet", help="Write an index. Folders and lists always have one, as jsonl."),
]
Pixels = Annotated[
    str,
    typer.Option(
        metavar="json|npz|none",
        help="Where the relevance of each pixel goes: into the report, into a file beside it, nowhere.",
    ),
]
Biases = Annotated[
    str,
    typer.Option(
        metavar="all|totals|none",
        help="How much the report holds of the biases: all elements, their sums, or nothing.",
    ),
]
Arrays = Annotated[
    str | None,
    typer.Option(
        metavar="npy|npz|nii|nii.gz|tif",
        help="Write the map as an array, too: float32 [C, H, W]. nii: of a volume, in its voxels. tif: of a picture, "
        "in its pixels and at its place on Earth.",
    ),
]
BatchSize = Annotated[int, typer.Option(help="How many images go through the network at once.")]
Workers = Annotated[
    int | None,
    typer.Option(
        help="How many batches are worked on at once, each in a thread or process. Default: one for each "
        "core, from 2 to 4."
    ),
]
Engine = Annotated[str, typer.Option(metavar="local|ray", help="Where the work is done. ray: on a Ray cluster.")]


@options.loads("output", "with_passes", "without_passes", *options.INPUT, "concept_names", "compiled", "amp")
def command(
    context: typer.Context,
    images: Images,
    method: Methods = None,
    param: Param = None,
    rule: options.Rule = None,
    composite: options.Composite = None,
    layer: options.Layer = None,
    smooth: Smooth = None,
    concept: Concept = None,
    baseline: Baseline = None,
    target: Target = None,
    expected: RightLabel = None,
    region: Region = None,
    pair: Pair = None,
    similarity: Similarity = None,
    out: Out = None,
    output_file: drawing.File = None,
    recursive: Recursive = False,
    glob: Glob = None,
    shard: Shard = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    index: Index = None,
    pixels: Pixels = "json",
    biases: Biases = "all",
    json: options.Json = False,
    arrays: Arrays = None,
    bands: drawing.Bands = None,
    figure: drawing.Kind = None,
    scale: drawing.ScaleOf = None,
    figure_size: drawing.Size = None,
    clip: drawing.Clip = 98.5,
    top: drawing.Top = 5.0,
    cmap: drawing.Cmap = "bwr",
    opacity: drawing.Opacity = 0.9,
    backdrop: drawing.Backdrop = "grey",
    show: drawing.Show = False,
    batch_size: BatchSize = 8,
    workers: Workers = None,
    engine: Engine = "local",
    model: options.ModelPath = None,
    *,
    load: options.Load,
) -> None:
    """Explain the model's answer for each image: a figure to look at, and a report of where the score comes from."""
    part = values.shard(shard)
    started = time.perf_counter()
    from heatcli.cli.asked import baseline_of, place_of, rules_of
    from heatcli.images.expected import Expected
    from heatcli.images.numbers import TEXT
    from heatcli.images.read import SUFFIXES
    from heatcli.methods.exported import own_method
    from heatcli.run import Request
    from heatcli.run.work.inputs import is_many

    named = method or []
    text = images[0].endswith(TEXT)  # of tokens, or else a list of files
    loaded = load(model, told=False, pair=pair is not None) if text else None
    one = len(images) == 1 and not is_many(images[0], loaded.pictures.suffixes if loaded else SUFFIXES)
    rules = rules_of(composite, rule)
    given, sought = values.sought(values.parameters(param))
    chosen = _methods(named, given, rules, layer, concept, smooth)
    for name in sought:
        _check_sought(name, chosen)
    kind = figure or ("overlay" if not one else "grid" if len(chosen) > 1 else "panel")
    style = drawing.style(kind, figure_size, scale, clip, cmap, opacity, backdrop, top, bands)
    _check(images, chosen, kind, one, json and show)
    folder, file = place_of(out, drawing.file(output_file), one)
    request = Request(
        inputs=tuple(images), out=folder, method=chosen[0], target=target,
        expected=None if expected is None else Expected.parse(expected), baseline=baseline_of(baseline, named),
        region=region, pixels=pixels, biases=biases, batch_size=batch_size, style=style, arrays=arrays,
        file=None if kind == "grid" else file, recursive=recursive, glob=glob, shard=part, resume=resume,
        overwrite=overwrite, index=index, workers=workers, processes=True, engine=engine, device=load.device,
        progress=say.passes_bar() if one else None, pair=pair, similarity=similarity,
    )  # fmt: skip
    loaded = loaded or load(model, told=False, pair=pair is not None)
    seconds = time.perf_counter() - started
    if loaded.explained is not None:
        request = replace(request, baseline=baseline)
        if not (method or param or rules or layer or smooth or concept):
            chosen = [own_method(loaded, loaded.explained)]
    if loaded.pictures.alphabet:
        if sought:
            raise UsageError(f"{sought[0]}=auto: is found on pictures, and {loaded.path} reads sequences; give a value")
        if len(chosen) > 1 or any(settings.source(context, name) == "COMMANDLINE" for name in FOR_PICTURES):
            others = "several --method, --figure, -o, --arrays, --show, --expected, --pair"
            raise UsageError(f"a sequence has a logo; {others} are for pictures")
        against = baseline_of(baseline, named, sequences=True)
        _explain_sequences(loaded, replace(request, method=chosen[0]), against, seconds, json)
        return
    if bands is not None and loaded.pictures.layout.kind != "picture":
        raise UsageError(f"--bands is for pictures, and {loaded.path} takes {loaded.pictures.layout.one}")
    if loaded.pictures.layout.kind == "tokens" and baseline is None and not named:
        request = replace(request, baseline="zero")  # nothing lies between tokens, so no blur
    if sought:
        chosen = _tuned(loaded, request, chosen, sought)
    reports, failures = _explain_pictures(loaded, request, chosen, seconds, json, show or kind == "grid")
    if reports and (show or kind == "grid"):
        _draw(reports, style, Path(file or f"{folder}/{Path(images[0]).stem}.grid.png"), show)
    if failures:
        raise typer.Exit(1)


def _methods(
    named: Sequence[str], parameters: Mapping[str, str], rules: Sequence[str], layer: str | None, concept: str | None,
    smooth: str | None,
) -> list[Method]:  # fmt: skip
    """The methods asked for, the default one if none is named, with what the other options change in each."""
    from heatcli.cli.asked import methods_of
    from heatcli.methods.concept import restricted
    from heatcli.methods.smooth import smoothed

    chosen = [asked.with_rules(rules) for asked in methods_of(named, parameters, layer)]
    chosen = chosen if concept is None else [restricted(asked, concept) for asked in chosen]
    return chosen if smooth is None else [smoothed(asked, smooth) for asked in chosen]


def _check_sought(name: str, chosen: Sequence[Method]) -> None:
    """Raise `UsageError` if no value can be found for the parameter, or no method has it."""
    from heatcli.evaluate.tune import VALUES

    if not any(name in asked.fields for asked in chosen):
        chosen[0].configured({name: 0})  # raises, and lists the parameters of the method
    if name not in VALUES:
        raise UsageError(f"{name}=auto: only {' and '.join(VALUES)} can be found; give {name} a value")


def _tuned(loaded: Model, request: Request, chosen: Sequence[Method], sought: Sequence[str]) -> list[Method]:
    """The methods with the values of the parameters `sought` that are best on some of the pictures of the request."""
    from heatcli.evaluate.subjects import subjects
    from heatcli.evaluate.tune import tuned
    from heatcli.run.work.inputs import STDIN, find
    from heatcli.system.files import is_url

    if STDIN in request.inputs:
        raise UsageError(f"{sought[0]}=auto: looks at pictures first; a list on stdin can be read only once")
    if any(map(is_url, request.inputs)):
        raise UsageError(f"{sought[0]}=auto: looks at pictures on disk, and a URL is given; give {sought[0]} a value")
    found = find(request.inputs, request.recursive, request.glob, None, str(request.out), loaded.pictures.suffixes)
    step = max(1, len(found) // TUNED_ON)
    paths = [Path(found.path(i)) for i in range(0, len(found), step)][:TUNED_ON]
    own = subjects(loaded, options.samples(loaded, paths, None)[0], request.target)
    baseline = request.baseline if isinstance(request.baseline, str) else None
    made: list[Method] = []
    for asked in chosen:
        names = [name for name in sought if name in asked.fields]
        best = tuned(own, asked, names, baseline, say.detail) if names else None
        if best is not None:
            loaded.notes.add(best.words)
        made.append(asked if best is None else best.method)
    return made


def _check(images: Sequence[str], chosen: Sequence[Method], kind: str, one: bool, both: bool) -> None:
    """Raise `UsageError` for options that exclude each other. `both`: --json and --show are given."""
    if not one and kind == "grid":
        raise UsageError("--figure grid is for one image; for many, heatcli gallery shows methods side by side")
    if len(chosen) > 1 and "-" in images:
        raise UsageError("a list on stdin can be read only once; for several methods give it as a file, such as l.txt")
    if both:
        raise UsageError("--show draws on stdout, where --json prints; give one of them")


def _explain_sequences(loaded: Model, request: Request, baseline: str | None, seconds: float, json: bool) -> None:
    """Explain sequences, for a model that reads letters. `seconds`: what loading took."""
    from heatcli.cli import sequences
    from heatcli.sequences.job import SequencesRequest

    loaded.notes.tell(say.note)
    each = SequencesRequest(
        inputs=tuple(map(Path, request.inputs)), out=Path(request.out), method=request.method, target=request.target,
        baseline=baseline, pixels=request.pixels, batch_size=request.batch_size,
    )  # fmt: skip
    sequences.explain(loaded, each, seconds, json)


def _explain_pictures(
    loaded: Model, request: Request, chosen: Sequence[Method], seconds: float, json: bool, keep: bool
) -> tuple[list[tuple[str, str]], int]:
    """Explain pictures by each method. Returns the (report, picture) paths if `keep`, and the number of failures.

    `seconds`: what loading took.
    """
    reports, failures = list[tuple[str, str]](), 0
    for asked in chosen:
        takes = asked.baseline is not None or len(chosen) == 1
        if request.baseline and not takes:
            loaded.notes.add(f"{asked.name} compares with nothing, so it takes no --baseline")
        first = asked is chosen[0]  # only the first method overwrites, so that the others keep its outputs
        own = replace(
            request, method=asked, baseline=request.baseline if takes else None, overwrite=request.overwrite and first
        )  # fmt: skip
        written, failed = explained(loaded, own, seconds, json, keep)
        reports += written
        failures += failed
    return reports, failures


def _draw(reports: list[tuple[str, str]], style: Style, grid: Path, show: bool) -> None:
    """Draw reports: as one grid, which is written; or each figure again, to show it in the terminal."""
    from heatcli.figures.draw import NONE, draw
    from heatcli.figures.reading import view_of

    views = [view_of(path, picture=image) for path, image in reports]
    if style.kind == "grid":
        made = [draw(views, style)]
        made[0].save(grid)
        say.line(f"wrote {grid}")
    else:
        own = replace(style, kind="panel") if style.kind == NONE else style
        made = [draw([view], own) for view in views]
    for drawn in made if show else []:
        drawing.in_terminal(drawn.image)
