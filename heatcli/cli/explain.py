"""`heatcli explain`: overlays and reports for images."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from heatcli.cli import options


@options.loads("output", "with_passes", "without_passes", *options.INPUT, "compiled", "amp")
def command(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE|FOLDER|PATTERN|LIST.txt|-...",
            help="Images, folders of images, quoted patterns, lists in a text file or on stdin (-); or their URLs.",
        ),
    ],
    method: Annotated[str, typer.Option("--method", help="See `heatcli methods`.")] = "lrp-eps",
    param: Annotated[
        list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="A parameter of the method.")
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="KIND=RULE[:K=V,…]", help="Another rule for a kind of operator."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the CAM methods: an operator's or a layer's name.")
    ] = None,
    smooth: Annotated[
        str | None,
        typer.Option(metavar="N:SIGMA", help="Average over N noisy images; SIGMA is a share of the input's range."),
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
            metavar="top|top:K|INDEX|LABEL|A-B|A@T|path",
            help="The score; top:K: K reports an image; A@T: at position T; path: the best of each position.",
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(metavar="L,T,R,B|MASK", help="Dense outputs: sum scores here, not where the class wins."),
    ] = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="Where overlays and reports go.")] = "heatmaps",
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Folders below, too; the outputs mirror the tree.")
    ] = False,
    glob: Annotated[str | None, typer.Option(metavar="PATTERN", help="Which files of a folder.")] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="K/N", help="The K-th of N parts of the images, by name.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run ended.")] = False,
    index: Annotated[
        str | None, typer.Option(metavar="jsonl|parquet", help="Keep an index; folders and lists have one anyway.")
    ] = None,
    pixels: Annotated[str, typer.Option(metavar="json|npz|none", help="Where each pixel's relevance goes.")] = "json",
    json: options.Json = False,
    cmap: Annotated[str, typer.Option(help="A diverging colour map of matplotlib's.")] = "bwr",
    opacity: Annotated[float, typer.Option(help="Of the strongest relevance, 0 to 1.")] = 0.9,
    batch_size: Annotated[int, typer.Option(help="Images that go through the network at once.")] = 8,
    workers: Annotated[
        int | None, typer.Option(help="Batches at once, a thread or process each; default: one a core, 2 to 4.")
    ] = None,
    engine: Annotated[str, typer.Option(metavar="local|ray", help="ray: on all slots of a Ray cluster.")] = "local",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    model: options.ModelPath = None,
    *,
    load: options.Load,
) -> None:
    """Explain what the model says of each image: an overlay to look at, and a report that books every unit."""
    parameters = options.parameters(param) | ({} if layer is None else {"layer": layer})
    part = options.shard(shard)
    started = time.perf_counter()
    from heatcli.cli.signals import came
    from heatcli.cli.talk import Interrupted, Talk
    from heatcli.files import read
    from heatcli.methods.smooth import smoothed
    from heatcli.methods.table import method as find_method
    from heatcli.run import Done, Request, Run
    from heatcli.run.inputs import is_many

    chosen = find_method(method, **parameters).with_rules(rule or [])
    chosen = chosen if smooth is None else smoothed(chosen, smooth)
    bar = options.passes_bar() if not quiet and not any(map(is_many, images)) else None
    request = Request(
        tuple(images), out, chosen, target, baseline, region, pixels, batch_size, cmap,
        opacity, recursive, glob, part, resume, index, workers, True, engine, load.device, bar,
    )  # fmt: skip
    loaded = load(model, told=False)
    if loaded.alphabet:
        from heatcli.cli import sequences
        from heatcli.sequences.job import Request as Sequences

        if not quiet:
            loaded.notes.tell(options.note)
        own = Sequences(tuple(map(Path, images)), Path(out), chosen, target, baseline, pixels, batch_size)
        sequences.explain(loaded, own, time.perf_counter() - started, json)
        return
    run = Run(loaded, request, time.perf_counter() - started)
    with Talk(run.total, run.before, run.index is not None, quiet) as talk:
        if loaded.compiler is not None:
            loaded.compiler.say = talk.note
        loaded.notes.tell(talk.note)
        if "dequantise" in loaded.artifact.rewrites:
            talk.once(
                "dequantise",
                f"{loaded.path} is quantised: it is explained in real numbers; where it cuts values off is a clamp of "
                "its own, and what it rounds is booked as unexplained",
            )
        try:
            with closing(run.outcomes()) as outcomes:
                for outcome in outcomes:
                    if loaded.batch_size and batch_size > loaded.batch_size:
                        talk.once("batch", f"{loaded.path} takes {loaded.batch_size} at a time")
                    if run.lost:
                        talk.once("lost", "a worker process died; its images are explained again")
                    talk.hear(outcome)
                    if json and isinstance(outcome, Done):
                        sys.stdout.buffer.write(read(outcome.report_path))
        except KeyboardInterrupt:
            if run.index is None:
                raise
            message = f"interrupted after {talk.done:,} of {run.total:,} images; the same with --resume goes on"
            raise Interrupted(message, came[0] if came else 2) from None
        talk.end(f"index: {run.index_path}")
    if talk.failures:
        raise typer.Exit(1)
