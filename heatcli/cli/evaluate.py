"""`heatcli evaluate`: metrics of methods over a folder, as a table and curves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatcli.cli import options

if TYPE_CHECKING:
    from heatcli.evaluate.run import Evaluation

METHODS = "gradient,input-x-gradient,lrp-eps,deeplift-rescale"
METRICS = ["pixel-flipping", "complexity"]


@options.loads("output", *options.INPUT)
def command(
    model: Annotated[Path, typer.Argument(help="TorchScript, ONNX or .pt2 artifact.")],
    images: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of images, or images.")],
    methods: Annotated[
        str, typer.Option(metavar="A,B,…", help="Each NAME[:PARAMETER=VALUE…][@BASELINE]; random and edges, too.")
    ] = METHODS,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:OPTION=VALUE…]", help="pixel-flipping, deletion, insertion, morph, inside-mask, "
                     "pointing-game, randomisation, complexity, max-sensitivity, infidelity."),
    ] = None,
    controls: Annotated[bool, typer.Option(help="Random maps and an edge detector, too.")] = True,
    masks: options.Masks = None,
    target: options.Target = None,
    baseline: options.MethodsBaseline = None,
    limit: Annotated[int | None, typer.Option(help="The first so many images only.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where evaluation.json and the curves go.")] = Path(
        "evaluation"
    ),
    json: options.Json = False,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    *,
    load: options.Load,
) -> None:  # fmt: skip
    """Measure how good heatmaps are: a table with 95% bootstrap intervals, and curves."""
    from heatcli.evaluate.explainer import Explainer
    from heatcli.evaluate.metrics import metric as find_metric
    from heatcli.evaluate.plots import pictures
    from heatcli.evaluate.run import evaluate, with_controls
    from heatcli.evaluate.subject import subject
    from heatcli.files import make_folder, write_atomically

    explainers = [Explainer.parse(text, baseline) for text in methods.split(",") if text]
    chosen = [find_metric(text) for text in metric or METRICS]
    loaded = load(model)
    samples, failed = options.samples(loaded, images, masks, limit)
    make_folder(out)
    found = evaluate(
        subject(loaded, samples, target, batch_size, seed),
        with_controls(explainers) if controls else explainers,
        chosen,
        lambda text: print(f"  {text}", file=sys.stderr),
    )
    for name, png in pictures(found).items():
        write_atomically(out / name, png)
    text = options.as_json(found)
    write_atomically(out / "evaluation.json", text)
    if json:
        sys.stdout.buffer.write(text)
    else:
        _print(found)
    print(f"wrote {out}/evaluation.json" + (" and curves" if found.curves else ""), file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _print(found: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    marks = {"higher": " ↑", "lower": " ↓", "": ""}
    console = Console()
    for metric in found.metrics:
        rows = [row for row in found.rows if row.metric == metric]
        columns = {row.column: row.better for row in rows}
        table = Table("method", *(name + marks[better] for name, better in columns.items()),
                      title=f"{metric}: mean [95% interval] over {max(row.images for row in rows)} images")  # fmt: skip
        for method in dict.fromkeys(row.method for row in rows):
            own = {row.column: row for row in rows if row.method == method}
            cells = (f"{own[c].mean:.4g} [{own[c].low:.3g}, {own[c].high:.3g}]" for c in columns)
            table.add_row(method, *cells)
        console.print(table)
