"""`heatcli evaluate`: metrics of methods over a folder, as a table and curves."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heatcli.cli import options, results, say
from heatcli.errors import counted

if TYPE_CHECKING:
    from heatcli.evaluate.explainer import Explainer
    from heatcli.evaluate.recommend import Recommendation
    from heatcli.evaluate.run import Evaluation
    from heatcli.evaluate.subjects import Subjects

METHODS = "gradient,input-x-gradient,lrp-eps,deeplift-rescale"
METRICS = ["pixel-flipping", "complexity"]
TRIED = (
    "lrp-eps,lrp-eps@blur,lrp-epsilon-plus,lrp-epsilon-plus@blur,lrp-epsilon-plus-flat@blur,lrp-epsilon-gamma-box@blur,"
    "lrp-gamma@blur,deeplift-reveal-cancel@blur,integrated-gradients@blur,grad-cam"
)
TRIED_ON_ATTENTION = "attnlrp,cp-lrp,cp-lrp-gamma,cp-lrp-gamma@blur"


@options.loads("output", *options.INPUT)
def command(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="TorchScript, ONNX or .pt2 artifact.")],
    images: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of images, or images.")],
    recommend: Annotated[
        bool,
        typer.Option("--recommend", help="Search for the method, parameters and baseline that rank the regions "
            "of these pictures best for this model; see `heatcli help compare`."),
    ] = False,
    methods: Annotated[
        str | None,
        typer.Option("--methods", "--method", metavar="A,B,…",
                     help="Methods, each NAME[:PARAMETER=VALUE,…][@BASELINE]; random and edges are controls. "
                     f"Default: {METHODS}; with --recommend, ten, and four more of a network with attention."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:OPTION=VALUE,…]", help="pixel-flipping, deletion, insertion, morph, inside-mask, "
                     "pointing-game, randomisation, complexity, max-sensitivity, infidelity."),
    ] = None,
    controls: Annotated[bool, typer.Option(help="Measure random maps and an edge detector, too.")] = True,
    masks: options.Masks = None,
    target: options.Target = None,
    baseline: options.MethodsBaseline = None,
    limit: Annotated[int | None, typer.Option(help="Use only this many images, the first ones.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where evaluation.json and the curves go.")] = Path(
        "evaluation"
    ),
    html: options.Html = None,
    json: options.Json = False,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    *,
    load: options.Load,
) -> None:  # fmt: skip
    """Measure how good heatmaps are: a table with 95% bootstrap intervals, and curves."""
    from heatcli.artifact.layout import TOKENS
    from heatcli.errors import UsageError
    from heatcli.evaluate.explainer import Explainer
    from heatcli.evaluate.metrics import metric as find_metric
    from heatcli.evaluate.plots import pictures
    from heatcli.evaluate.run import evaluate, with_controls
    from heatcli.evaluate.subjects import subjects
    from heatcli.gallery import sheet
    from heatcli.graph.kinds import SOFTMAX
    from heatcli.rules.parameters import listed
    from heatcli.system.files import make_folder, write_atomically

    sheet.checked_name(html)
    if recommend:
        for flag, given in (("--metric", metric), ("--html", html), ("--no-controls", not controls)):
            if given:
                raise UsageError(f"{flag} is not for --recommend, which has one measure, controls and no page")
    explainers = [Explainer.parse(text, baseline) for text in listed(methods or (TRIED if recommend else METHODS))]
    chosen = [find_metric(text) for text in metric or METRICS]
    loaded = load(model)
    if methods is None and loaded.pictures.layout.kind == TOKENS:
        refused = [e.name for e in explainers if e.method is not None and not e.method.takes_tokens]
        say.line(f"  left out, since nothing lies between tokens: {', '.join(refused)}")
        explainers = [e for e in explainers if e.name not in refused]
    samples, failed = options.samples(loaded, images, masks, limit)
    make_folder(out)
    own = subjects(loaded, samples, target, batch_size, seed)
    graph = loaded.graph(own.parts[0].batch.shape)
    if recommend and methods is None and any(op.role == SOFTMAX for op in graph.operators):
        explainers += [Explainer.parse(text, baseline) for text in listed(TRIED_ON_ATTENTION)]
    if recommend:
        repeated = ["heatcli", "explain", *map(str, images), "--model", str(model), *options.repeated(context)]
        _recommend(own, explainers, repeated, out, json)
        if failed:
            raise typer.Exit(1)
        return
    found = evaluate(
        own,
        with_controls(explainers, own.layout) if controls else explainers,
        chosen,
        lambda text: say.line(f"  {text}"),
    )
    curves = pictures(found)
    for name, png in curves.items():
        write_atomically(out / name, png)
    if html is not None:
        sheet.of_evaluation(html, found, curves)
    _write_and_print(found, out, "evaluation.json", _print, json, " and curves" if found.curves else "")
    if failed:
        raise typer.Exit(1)


def _recommend(own: Subjects, explainers: list[Explainer], command: list[str], out: Path, json: bool) -> None:
    """Search for the best method, write `recommendation.json`, and print the command that uses the method."""
    from heatcli.evaluate.recommend import Search

    found = Search(own, lambda text: say.line(f"  {text}"))(explainers, command)
    _write_and_print(found, out, "recommendation.json", _print_ranking, json)


def _write_and_print(
    found: Any, out: Path, name: str, printed: Callable[[Any], None], json: bool, besides: str = ""
) -> None:  # fmt: skip
    """Write a result as JSON into `out`, and print it: as JSON, or by `printed`. `besides`: ends the last line."""
    from heatcli.system.files import write_atomically

    text = results.as_json(found)
    write_atomically(out / name, text)
    if json:
        sys.stdout.buffer.write(text)
    else:
        printed(found)
    say.line(f"wrote {out}/{name}{besides}")


def _print_ranking(found: Recommendation) -> None:
    """Print the ranking as a table, the result in sentences, and the command."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console()
    title = f"{counted(found.images, 'image')}: does the score fall where the map says it should?"
    key = "area: between the orders, in units of the score; held: by pixels, of the score; ms: processor time an image"
    table = Table("method", box=SIMPLE, padding=(0, 1, 0, 0), title=title, caption=key, pad_edge=False)
    for name in ("area ± 95%", "below the best", *(["mask"] if found.masks else []), "held", "ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.rows:
        below = f"{row.behind:.2f} [{row.behind_low:.2f}, {row.behind_high:.2f}]" if row.method != found.best else ""
        inside = ["" if row.inside is None else f"{row.inside:.2f}"] if found.masks else []
        held = "" if row.shown is None else f"{100 * row.shown:.3g} %"
        area = f"{row.between:.2f} ± {(row.high - row.low) / 2:.2f}"
        table.add_row(row.method, area, below, *inside, held, "" if row.control else f"{1000 * row.seconds:.3g}")
    console.print(table)
    for method, why in found.skipped.items():
        print(f"not tried: {method}: {why}")
    for sentence in found.words:
        print(sentence)
    print(f"\n{shlex.join(found.command)}")


def _print(found: Evaluation) -> None:
    """Print a table per metric."""
    from rich.console import Console
    from rich.table import Table

    marks = {"higher": " ↑", "lower": " ↓", "": ""}
    console = Console()
    for metric in found.metrics:
        rows = [row for row in found.rows if row.metric == metric]
        columns = {row.column: row.better for row in rows}
        title = f"{metric}: mean [95% interval] over {counted(max(row.images for row in rows), 'image')}"
        table = Table("method", *(name + marks[better] for name, better in columns.items()), title=title)
        for method in dict.fromkeys(row.method for row in rows):
            own = {row.column: row for row in rows if row.method == method}
            cells = (f"{own[c].mean:.4g} [{own[c].low:.3g}, {own[c].high:.3g}]" for c in columns)
            table.add_row(method, *cells)
        console.print(table)
