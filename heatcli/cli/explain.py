"""`heatcli explain`: figures and reports for images."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatcli.cli import drawing, options, say, settings
from heatcli.cli.running import explained

if TYPE_CHECKING:
    from heatcli.figures.draw import Style


# Flags that sequences refuse; a file of settings may have them for the pictures of other models.
FOR_PICTURES = ("figure", "output_file", "arrays", "show", "expected", "pair")


@options.loads("output", "with_passes", "without_passes", *options.INPUT, "concept_names", "compiled", "amp")
def command(
    context: typer.Context,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE|FOLDER|PATTERN|LIST.txt|-...",
            help="Images, folders of images, quoted patterns, lists in a text file or on stdin (-); or their URLs.",
        ),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="The method; see `heatcli methods`. Repeat it to see several side by side. Default: lrp-eps, "
            "with the baseline blur.",
        ),
    ] = None,
    param: options.Param = None,
    rule: options.Rule = None,
    composite: options.Composite = None,
    layer: options.Layer = None,
    smooth: Annotated[
        str | None,
        typer.Option(metavar="N:SIGMA", help="Average over N noisy images; SIGMA is a share of the input's range."),
    ] = None,
    concept: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER[:CHANNEL,...]",
            help="Show only the relevance that flows through this layer, or through these channels of it.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="none|zero|black|blur[:SIGMA]|mean[:FILE]|IMAGE|FOLDER", help="What the image is compared with."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="top|top:K|INDEX|LABEL|A-B|A@T|path|detections|box:N",
            help="Which class is explained. top:K: a report for each of K classes. A-B: A rather than B. A@T: at "
            "position T. path: the best of each position. detections, box:N: boxes of a "
            "detector (`heatcli help heads`).",
        ),
    ] = None,
    expected: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL|CSV",
            help="The right label, or a CSV file with a line image,label for each. If the model gives another "
            "label, the difference of the two is explained.",
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="L,T,R,B|MASK",
            help="For outputs with positions, such as segmentation: sum the class's scores in this region. "
            "Default: where the class wins.",
        ),
    ] = None,
    pair: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="A second picture. The similarity of its embedding to each image's is explained, on both "
            "pictures. For a network that takes two pictures: the second one.",
        ),
    ] = None,
    similarity: Annotated[
        str | None, typer.Option(metavar="cosine|dot", help="The similarity of a pair. Default: cosine.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where figures and reports go. Default: heatmaps.")
    ] = None,
    output_file: drawing.File = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Read folders below, too. The outputs mirror the tree.")
    ] = False,
    glob: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Read only the files of a folder that match this pattern.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="K/N", help="Explain the K-th of N parts of the images, by name.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Forget the earlier runs in the folder, and write all files again.")
    ] = False,
    index: Annotated[
        str | None,
        typer.Option(metavar="jsonl|parquet", help="Write an index. Folders and lists always have one, as jsonl."),
    ] = None,
    pixels: Annotated[
        str,
        typer.Option(
            metavar="json|npz|none",
            help="Where the relevance of each pixel goes: into the report, into a file beside it, nowhere.",
        ),
    ] = "json",
    biases: Annotated[
        str,
        typer.Option(
            metavar="all|totals|none",
            help="How much the report holds of the biases: all elements, their sums, or nothing.",
        ),
    ] = "all",
    json: options.Json = False,
    arrays: Annotated[
        str | None,
        typer.Option(
            metavar="npy|npz|nii|nii.gz|tif",
            help="Write the map as an array, too: float32 [C, H, W]. nii: of a volume, in its voxels. tif: of a "
            "picture, in its pixels and at its place on Earth.",
        ),
    ] = None,
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
    batch_size: Annotated[int, typer.Option(help="How many images go through the network at once.")] = 8,
    workers: Annotated[
        int | None,
        typer.Option(
            help="How many batches are worked on at once, each in a thread or process. Default: one for each "
            "core, from 2 to 4."
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="local|ray", help="Where the work is done. ray: on a Ray cluster.")
    ] = "local",
    model: options.ModelPath = None,
    *,
    load: options.Load,
) -> None:
    """Explain the model's answer for each image: a figure to look at, and a report of where the score comes from."""
    part = options.shard(shard)
    started = time.perf_counter()
    from heatcli.cli.asked import baseline_of, methods_of, place_of, rules_of
    from heatcli.errors import UsageError
    from heatcli.images.expected import Expected
    from heatcli.methods.concept import restricted
    from heatcli.methods.exported import own_method
    from heatcli.methods.smooth import smoothed
    from heatcli.run import Request
    from heatcli.run.work.inputs import is_many

    named = method or []
    rules = rules_of(composite, rule)
    one = len(images) == 1 and not is_many(images[0])
    chosen = [asked.with_rules(rules) for asked in methods_of(named, options.parameters(param), layer)]
    chosen = chosen if concept is None else [restricted(asked, concept) for asked in chosen]
    chosen = chosen if smooth is None else [smoothed(asked, smooth) for asked in chosen]
    kind = figure or ("overlay" if not one else "grid" if len(chosen) > 1 else "panel")
    style = drawing.style(kind, figure_size, scale, clip, cmap, opacity, backdrop, top, bands)
    if not one and kind == "grid":
        raise UsageError("--figure grid is for one image; for many, heatcli gallery shows methods side by side")
    if len(chosen) > 1 and "-" in images:
        raise UsageError("a list on stdin can be read only once; for several methods give it as a file, such as l.txt")
    if json and show:
        raise UsageError("--show draws on stdout, where --json prints; give one of them")
    folder, file = place_of(out, drawing.file(output_file), one)
    wanted = None if expected is None else Expected.parse(expected)
    bar = say.passes_bar() if one else None
    request = Request(
        tuple(images), folder, chosen[0], target, wanted, baseline_of(baseline, named), region, pixels, biases,
        batch_size, style, arrays, None if kind == "grid" else file, recursive, glob, part, resume, overwrite, index,
        workers, True, engine, load.device, bar, pair=pair, similarity=similarity,
    )  # fmt: skip
    loaded = load(model, told=False, pair=pair is not None)
    if loaded.explained is not None:
        request = replace(request, baseline=baseline)
        if not (method or param or rules or layer or smooth or concept):
            chosen = [own_method(loaded, loaded.explained)]
    if loaded.pictures.alphabet:
        from heatcli.cli import sequences
        from heatcli.sequences.job import SequencesRequest

        if len(chosen) > 1 or any(settings.source(context, name) == "COMMANDLINE" for name in FOR_PICTURES):
            others = "several --method, --figure, -o, --arrays, --show, --expected, --pair"
            raise UsageError(f"a sequence has a logo; {others} are for pictures")
        loaded.notes.tell(say.note)
        against = baseline_of(baseline, named, sequences=True)
        each = SequencesRequest(tuple(map(Path, images)), Path(folder), chosen[0], target, against, pixels, batch_size)
        sequences.explain(loaded, each, time.perf_counter() - started, json)
        return
    if bands is not None and loaded.pictures.layout.kind != "picture":
        raise UsageError(f"--bands is for pictures, and {loaded.path} takes {loaded.pictures.layout.one}")
    if loaded.pictures.layout.kind == "tokens" and baseline is None and not named:
        request = replace(request, baseline="zero")  # nothing lies between tokens, so no blur
    reports, failures = list[tuple[str, str]](), 0
    for asked in chosen:
        takes = asked.baseline is not None or len(chosen) == 1
        if baseline and not takes:
            loaded.notes.add(f"{asked.name} compares with nothing, so it takes no --baseline")
        first = asked is chosen[0]  # only the first method overwrites, so that the others keep its outputs
        asked_for = replace(
            request, method=asked, baseline=request.baseline if takes else None, overwrite=overwrite and first
        )  # fmt: skip
        written, failed = explained(loaded, asked_for, time.perf_counter() - started, json, show or kind == "grid")
        reports += written
        failures += failed
    if reports and (show or kind == "grid"):
        _draw(reports, style, Path(file or f"{folder}/{Path(images[0]).stem}.grid.png"), show)
    if failures:
        raise typer.Exit(1)


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
