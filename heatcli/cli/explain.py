"""`heatcli explain`: overlays and reports for images."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heatcli.cli import options

if TYPE_CHECKING:
    from heatcli.run import Done


def command(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Images, or folders of images.")],
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
        typer.Option(metavar="top|top:K|INDEX|LABEL|A-B", help="The score; top:K: K reports an image."),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(metavar="L,T,R,B|MASK", help="Dense outputs: sum scores here, not where the class wins."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where overlays and reports go.")] = Path("heatmaps"),
    pixels: Annotated[str, typer.Option(metavar="json|npz|none", help="Where each pixel's relevance goes.")] = "json",
    json: options.Json = False,
    cmap: Annotated[str, typer.Option(help="A diverging colour map of matplotlib's.")] = "bwr",
    opacity: Annotated[float, typer.Option(help="Of the strongest relevance, 0 to 1.")] = 0.9,
    batch_size: Annotated[int, typer.Option(help="Images that go through the network at once.")] = 8,
    output: options.Output = "logit",
    with_passes: options.Passes = None,
    without_passes: options.NoPasses = None,
    head: options.Head = 0,
    inputs: options.Inputs = None,
    model: options.ModelPath = None,
    device: options.Device = "auto",
    size: options.Size = None,
    channels: options.Channels = None,
    mean: options.Mean = None,
    std: options.Std = None,
    resize: options.Resize = None,
    labels: options.Labels = None,
    preset: options.Preset = None,
    debug: options.Debug = False,
) -> None:
    """Explain what the model says of each image: an overlay to look at, and a report that books every unit."""
    flags = options.model_flags(size, channels, mean, std, resize, labels, preset)
    parameters = options.parameters(param) | ({} if layer is None else {"layer": layer})
    started = time.perf_counter()
    from heatcli.artifact.model import load
    from heatcli.methods.smooth import smoothed
    from heatcli.methods.table import method as find_method
    from heatcli.run import Done, Request, run

    chosen = find_method(method, **parameters).with_rules(rule or [])
    chosen = chosen if smooth is None else smoothed(chosen, smooth)
    request = Request(
        tuple(images), out, chosen, target, baseline, region, pixels, batch_size, cmap, opacity, options.progress()
    )
    passes = options.passes(output, with_passes, without_passes)
    loaded = load(model, device, passes, options.arrays(inputs), head, **flags)
    failures, told = 0, set[str]()
    if "dequantise" in loaded.artifact.rewrites:
        print(f"heatcli: note: {loaded.path} is quantised; its dequantised graph is explained", file=sys.stderr)
    for outcome in run(loaded, request, time.perf_counter() - started):
        if loaded.batch_size and batch_size > loaded.batch_size and "batch" not in told:
            told.add("batch")
            print(f"heatcli: note: {loaded.path} takes {loaded.batch_size} at a time", file=sys.stderr)
        if isinstance(outcome, Done):
            _tell(outcome, told)
            if json:
                sys.stdout.write(outcome.report_path.read_text(encoding="utf-8"))
        else:
            failures += 1
            print(f"heatcli: {outcome.error}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)


def _tell(done: Done, told: set[str]) -> None:
    """What was seen, on stderr: the prediction, the ledger in one line, the files; each fallback once."""
    report = done.report
    target, ledger = report.target, report.ledger
    left = f"{ledger.output:.6g}" + (f" − {ledger.output_baseline:.6g}" if report.baseline.name != "none" else "")
    lines = [
        f"{report.image.path}: {target.label if target.label is not None else f'class {target.index}'}, "
        f"{target.quantity} {target.score:.6g}"
        + ("" if target.probability is None else f", probability {target.probability:.4g}"),
        f"  ledger: {left} = {ledger.pixels:.6g} pixels + {ledger.biases:.6g} biases + {ledger.absorbed:.3g} absorbed "
        f"+ {ledger.unexplained:.3g} unexplained (relative error {ledger.relative_error:.1e})",
        f"  wrote {done.overlay_path} and {done.report_path}",
    ]
    for name, value in done.unexplained.items():
        if name not in told:
            told.add(name)
            lines.append(f"  note: {_why(name, value, ledger.output)}")
    print("\n".join(lines), file=sys.stderr)


def _why(name: str, value: float, score: float) -> str:
    from heatcli.methods.smooth import NOISE

    if name == NOISE:
        return (
            f"the mean score of the noisy images is {score - value:.6g}; {value:.3g} of the image's own is unexplained"
        )
    return f"no rule knows operator {name}; its exact gradient was taken, {value:.3g} of the score is unexplained there"
