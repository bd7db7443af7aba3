"""`heatcli compare`: two artifacts, or two methods, on the same images."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatcli.cli import options, results, say
from heatcli.errors import counted

if TYPE_CHECKING:
    from heatcli.evaluate.compare import Both, Comparison

SHOWN = 20
WIDE = 120  # columns if stdout is not a terminal


@options.loads(*options.INPUT)
def command(
    a: Annotated[str, typer.Argument(metavar="A", help="An artifact, or a method NAME[:PARAMETER=VALUE,…][@BASELINE]")],
    b: Annotated[str, typer.Argument(metavar="B", help="What A is compared with: another artifact or method.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Images, or folders of images.")],
    model: options.ModelPath = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="The method that explains both models. Default: what an explained model has inside, or lrp-eps."
        ),
    ] = None,
    baseline: options.MethodsBaseline = None,
    target: options.Target = None,
    most_difference: Annotated[
        float | None,
        typer.Option(
            help="The largest allowed difference of outputs and of heatmaps, as a share of A's largest. "
            "Above it the exit status is 1."
        ),
    ] = None,
    least_correlation: Annotated[
        float | None,
        typer.Option(help="The smallest allowed rank correlation of the heatmaps. Below it the exit status is 1."),
    ] = None,
    html: options.Html = None,
    json: options.Json = False,
    batch_size: options.BatchSize = None,
    *,
    load: options.Load,
) -> None:
    """Compare two models, or two methods, image by image: outputs, heatmaps and sums of biases."""
    from heatcli.errors import UsageError
    from heatcli.evaluate.compare import Side, compare
    from heatcli.evaluate.explainer import Explainer, is_method
    from heatcli.gallery import sheet
    from heatcli.model.named import is_named
    from heatcli.system.files import is_there

    sheet.checked_name(html)
    files = [is_named(text) or is_there(text) or "/" in text or bool(Path(text).suffix) for text in (a, b)]
    artifacts = [is_file and not is_method(text) for text, is_file in zip((a, b), files, strict=True)]
    if all(artifacts) and model is None:
        models = [load(text) for text in (a, b)]
        explainer = Explainer.shared(models, method, baseline)
        sides = [Side(model, explainer) for model in models]
    elif not any(artifacts):
        loaded = load(model)
        sides = [Side(loaded, Explainer.parse(text, baseline)) for text in (a, b)]
    else:
        raise UsageError(f"{a} and {b}: give two artifacts, or two methods and perhaps --model")
    samples, failed = options.samples(sides[0].model, images, None)
    found = compare(sides[0], sides[1], samples, target, most_difference, least_correlation, batch_size)
    if json:
        sys.stdout.buffer.write(results.as_json(found))
    else:
        _print(found)
    if html is not None:
        sheet.of_comparison(html, found)
    beyond = [pair for pair in found.pairs if not pair.ok]
    for pair in beyond:
        apart = f"outputs differ by {pair.output_difference:.3g}, heatmaps by {pair.heatmap_difference:.3g}"
        say.error(f"{pair.image}: {apart}, rank correlation {pair.rank_correlation:.4f}")
    if beyond or failed:
        raise typer.Exit(1)


def _print(found: Comparison) -> None:
    """Print the worst pairs, and a table of biases."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else WIDE)
    console.print(f"A: {found.a}\nB: {found.b}", markup=False, highlight=False)
    print(f"{counted(len(found.pairs), 'image')}, worst first")
    folder = os.path.commonpath([os.path.dirname(p.image) for p in found.pairs]) if found.pairs else ""  # noqa: PTH120
    for p in found.pairs[:SHOWN]:
        says = p.label_a if p.label_a == p.label_b else f"A {p.label_a}, B {p.label_b}"
        name = os.path.relpath(p.image, folder) if folder else p.image
        maps = f"rank correlation {p.rank_correlation:.4f}, SSIM {p.ssim:.4f}"
        print(f"{name}: {says}{'' if p.ok else '  BEYOND'}")
        print(f"  score A {_number(p.score.a)}, B {_number(p.score.b)}; outputs apart {p.output_difference:.2g}")
        print(f"  maps apart {p.heatmap_difference:.2g}, {maps}")
    if len(found.pairs) > SHOWN:
        print(f"… and {len(found.pairs) - SHOWN} more; --json prints all")
    biases = Table(title="what biases get, mean over the images")
    biases.add_column("bias", overflow="fold")
    for title in ("A", "B", "B − A"):
        biases.add_column(title, justify="right", no_wrap=True)
    for name, both in found.biases.items():
        biases.add_row(name, _number(both.a), _number(both.b), _change(both))
    console.print(biases)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"


def _change(both: Both) -> str:
    return "–" if both.a is None or both.b is None else f"{both.b - both.a:.2g}"
