"""`heatcli compare`: two artifacts, or two methods, on the same images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatcli.cli import options

if TYPE_CHECKING:
    from heatcli.compare import Both, Comparison

SHOWN = 20


@options.loads(*options.INPUT)
def command(
    a: Annotated[str, typer.Argument(metavar="A", help="An artifact, or a method NAME[:PARAMETER=VALUE…][@BASELINE].")],
    b: Annotated[str, typer.Argument(metavar="B", help="What it is compared with: another of the same.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Images, or folders of images.")],
    model: options.ModelPath = None,
    method: Annotated[str, typer.Option(help="Explains both artifacts.")] = "lrp-eps",
    baseline: options.MethodsBaseline = None,
    target: options.Target = None,
    most_difference: Annotated[
        float | None, typer.Option(help="Of outputs and of heatmaps, relative to A's largest; above it: exit status 1.")
    ] = None,
    least_correlation: Annotated[
        float | None, typer.Option(help="Rank correlation of the heatmaps; below it: exit status 1.")
    ] = None,
    json: options.Json = False,
    batch_size: options.BatchSize = None,
    *,
    load: options.Load,
) -> None:
    """Compare outputs, heatmaps and bias totals image by image, worst first; --model is for two methods."""
    from heatcli.compare import Side, compare
    from heatcli.errors import UsageError
    from heatcli.evaluate.explainer import Explainer
    from heatcli.files import is_there

    artifacts = [is_there(text) or bool(Path(text).suffix) or "/" in text for text in (a, b)]
    if all(artifacts) and model is None:
        explainer = Explainer.parse(method, baseline)
        sides = [Side(load(text), explainer) for text in (a, b)]
    elif not any(artifacts):
        loaded = load(model)
        sides = [Side(loaded, Explainer.parse(text, baseline)) for text in (a, b)]
    else:
        raise UsageError(f"{a} and {b}: give two artifacts, or two methods and perhaps --model")
    samples, failed = options.samples(sides[0].model, images, None)
    found = compare(sides[0], sides[1], samples, target, most_difference, least_correlation, batch_size)
    if json:
        sys.stdout.buffer.write(options.as_json(found))
    else:
        _print(found)
    beyond = [pair for pair in found.pairs if not pair.ok]
    for pair in beyond:
        apart = f"outputs differ by {pair.output_difference:.3g}, heatmaps by {pair.heatmap_difference:.3g}"
        print(f"heatcli: {pair.image}: {apart}, rank correlation {pair.rank_correlation:.4f}", file=sys.stderr)
    if beyond or failed:
        raise typer.Exit(1)


def _print(found: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"A: {found.a}\nB: {found.b}", markup=False, highlight=False)
    columns = ("image", "A says", "B says", "score A", "score B", "outputs apart", "maps apart", "rank corr.", "SSIM")
    pairs = Table(*columns, title=f"{len(found.pairs)} images, worst first")
    for p in found.pairs[:SHOWN]:
        pairs.add_row(p.image, p.label_a, p.label_b, _number(p.score.a), _number(p.score.b),
                      f"{p.output_difference:.2g}", f"{p.heatmap_difference:.2g}", f"{p.rank_correlation:.4f}",
                      f"{p.ssim:.4f}", style=None if p.ok else "red")  # fmt: skip
    console.print(pairs)
    if len(found.pairs) > SHOWN:
        console.print(f"… and {len(found.pairs) - SHOWN} more; --json prints all")
    biases = Table("bias", "A", "B", "B − A", title="what biases get, mean over the images")
    for name, both in found.biases.items():
        biases.add_row(name, _number(both.a), _number(both.b), _change(both))
    console.print(biases)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"


def _change(both: Both) -> str:
    return "–" if both.a is None or both.b is None else f"{both.b - both.a:.2g}"
